// SPDX-License-Identifier: Apache-2.0
/*
 * readbench FILE BYTES BLOCK DEPTH READS random|sequential [each]: reads FILE's first BYTES in blocks of BLOCK, DEPTH of them at
 * once (io_uring), READS in all, in 10 batches after a warm-up; direct, unless that is refused. Prints the least and the median
 * batch in ns per read; with "each", which is for a DEPTH of 1, the median read and the 99th percentile of one batch, less what
 * reading the clock takes. Under vmrun --icount a ns is one guest instruction.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 10, MOST = 64 };

static uint64_t seed = 88172645463325252ull, blocks, next_block;
static long block_bytes;
static int is_random, fd;
static char *buffers[MOST];

static void die(const char *what, int err)
{
	fprintf(stderr, "readbench: %s: %s\n", what, strerror(err));
	exit(1);
}

static off_t place(void)
{
	if (!is_random)
		return (off_t)(next_block++ % blocks) * block_bytes;
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (off_t)(seed % blocks) * block_bytes;
}

static void submit(struct io_uring *ring, unsigned i)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	io_uring_prep_read(sqe, fd, buffers[i], block_bytes, place());
	sqe->user_data = i;
}

/* One at a time is pread(): what a plain reader does. */
static void batch(struct io_uring *ring, unsigned depth, long reads)
{
	long begun = 0, done = 0;
	struct io_uring_cqe *cqe;
	int err;

	if (depth == 1) {
		for (; done < reads; done++)
			if (pread(fd, buffers[0], block_bytes, place()) != block_bytes)
				die("pread", errno);
		return;
	}
	for (; begun < depth && begun < reads; begun++)
		submit(ring, begun);
	while (done < reads) {
		err = io_uring_submit_and_wait(ring, 1);
		if (err < 0)
			die("io_uring", -err);
		while (!io_uring_peek_cqe(ring, &cqe)) {
			unsigned i = cqe->user_data;

			if (cqe->res != block_bytes)
				die("read", cqe->res < 0 ? -cqe->res : EIO);
			io_uring_cqe_seen(ring, cqe);
			done++;
			if (begun < reads) {
				submit(ring, i);
				begun++;
			}
		}
	}
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double ns_since(const struct timespec *begin)
{
	struct timespec end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	return (end.tv_sec - begin->tv_sec) * 1e9 + (end.tv_nsec - begin->tv_nsec);
}

/* Percentiles of single reads. */
static int each(long reads)
{
	double *ns = calloc(reads, sizeof(*ns)), clock = 1e9;
	struct timespec begin;
	long i;

	for (i = 0; i < 100; i++) {
		double one;

		clock_gettime(CLOCK_MONOTONIC, &begin);
		one = ns_since(&begin);
		clock = one < clock ? one : clock;
	}
	for (i = 0; i < reads; i++) {
		clock_gettime(CLOCK_MONOTONIC, &begin);
		batch(NULL, 1, 1);
		ns[i] = ns_since(&begin) - clock;
	}
	qsort(ns, reads, sizeof(*ns), compare);
	printf("%.0f %.0f\n", ns[reads / 2], ns[reads * 99 / 100]);
	return 0;
}

int main(int argc, char **argv)
{
	struct io_uring ring;
	double ns[BATCHES];
	unsigned depth, i;
	long reads;

	if (argc != 7 && argc != 8)
		return fprintf(stderr, "usage: readbench FILE BYTES BLOCK DEPTH READS random|sequential [each]\n"), 2;
	block_bytes = atol(argv[3]);
	blocks = strtoull(argv[2], NULL, 10) / block_bytes;
	depth = atoi(argv[4]);
	reads = atol(argv[5]) / BATCHES;
	is_random = !strcmp(argv[6], "random");
	fd = open(argv[1], O_RDONLY | O_DIRECT);
	if (fd < 0)
		fd = open(argv[1], O_RDONLY);
	if (fd < 0)
		die(argv[1], errno);
	if (depth < 1 || depth > MOST || reads < 1 || !blocks)
		return fprintf(stderr, "readbench: nothing to read\n"), 2;
	for (i = 0; i < depth; i++) {
		buffers[i] = aligned_alloc(4096, block_bytes);
		memset(buffers[i], 1, block_bytes);
	}
	if (depth > 1 && (errno = -io_uring_queue_init(MOST, &ring, 0)))
		die("io_uring", errno);
	batch(&ring, depth, reads);
	if (argc == 8)
		return each(reads);
	for (i = 0; i < BATCHES; i++) {
		struct timespec begin;

		clock_gettime(CLOCK_MONOTONIC, &begin);
		batch(&ring, depth, reads);
		ns[i] = ns_since(&begin) / reads;
	}
	qsort(ns, BATCHES, sizeof(*ns), compare);
	printf("%.0f %.0f\n", ns[0], ns[BATCHES / 2]);
	return 0;
}
