// SPDX-License-Identifier: Apache-2.0
/*
 * uringread DEVICE FILE [nowait|fixed]: reads the whole device by io_uring in blocks of 4 KiB, direct, 64 at once, in a
 * scattered order, and compares it with FILE. nowait: each read has RWF_NOWAIT first and is sent again without it when
 * it came back with EAGAIN; fixed: registered buffers and a polling kernel thread. Exit status 0 if all is the same.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BLOCK = 4096, DEPTH = 64 };

static void die(const char *what, int err)
{
	fprintf(stderr, "uringread: %s: %s\n", what, strerror(err));
	exit(1);
}

int main(int argc, char **argv)
{
	int nowait = argc > 3 && !strcmp(argv[3], "nowait"), fixed = argc > 3 && !strcmp(argv[3], "fixed");
	unsigned long again = 0, done = 0, next = 0, blocks, stride, block_of[DEPTH];
	struct iovec iov[DEPTH];
	struct io_uring ring;
	struct stat st;
	char *want;
	int dev, file, err, i;

	if (argc < 3)
		die("usage: uringread DEVICE FILE [nowait|fixed]", EINVAL);
	dev = open(argv[1], O_RDONLY | O_DIRECT);
	file = open(argv[2], O_RDONLY);
	if (dev < 0 || file < 0 || fstat(file, &st))
		die("open", errno);
	want = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, file, 0);
	if (want == MAP_FAILED)
		die("mmap", errno);
	blocks = st.st_size / BLOCK;
	for (stride = blocks / 2 + 1; ; stride++) { /* prime to blocks: each block once */
		unsigned long a = stride, b = blocks, t;

		while (b)
			t = a % b, a = b, b = t;
		if (a == 1)
			break;
	}
	err = io_uring_queue_init(DEPTH, &ring, fixed ? IORING_SETUP_SQPOLL : 0);
	if (err)
		die("io_uring_queue_init", -err);
	for (i = 0; i < DEPTH; i++) {
		iov[i].iov_len = BLOCK;
		if (posix_memalign(&iov[i].iov_base, BLOCK, BLOCK))
			die("memory", ENOMEM);
	}
	if (fixed) {
		err = io_uring_register_buffers(&ring, iov, DEPTH);
		if (err)
			die("io_uring_register_buffers", -err);
	}
	for (i = 0; i < DEPTH || done < blocks; i++) {
		struct io_uring_cqe *cqe = NULL;
		struct io_uring_sqe *sqe;
		int slot = i, resend = 0;

		if (i >= DEPTH) {
			err = io_uring_wait_cqe(&ring, &cqe);
			if (err)
				die("io_uring_wait_cqe", -err);
			slot = cqe->user_data;
			if (nowait && cqe->res == -EAGAIN) {
				resend = 1;
				again++;
			} else if (cqe->res != BLOCK) {
				die("read", cqe->res < 0 ? -cqe->res : EIO);
			} else if (memcmp(iov[slot].iov_base, want + block_of[slot] * BLOCK, BLOCK)) {
				fprintf(stderr, "uringread: block %lu differs\n", block_of[slot]);
				return 1;
			} else {
				done++;
			}
			io_uring_cqe_seen(&ring, cqe);
		}
		if (!resend) {
			if (next == blocks)
				continue;
			block_of[slot] = next++ * stride % blocks;
		}
		memset(iov[slot].iov_base, 0xa5, BLOCK);
		sqe = io_uring_get_sqe(&ring);
		if (!sqe)
			die("io_uring_get_sqe", EBUSY);
		if (fixed)
			io_uring_prep_read_fixed(sqe, dev, iov[slot].iov_base, BLOCK, block_of[slot] * BLOCK, slot);
		else
			io_uring_prep_read(sqe, dev, iov[slot].iov_base, BLOCK, block_of[slot] * BLOCK);
		if (nowait && !resend)
			sqe->rw_flags = RWF_NOWAIT;
		sqe->user_data = slot;
		err = io_uring_submit(&ring);
		if (err < 0)
			die("io_uring_submit", -err);
	}
	printf("%lu blocks, %lu came back with EAGAIN\n", done, again);
	return 0;
}
