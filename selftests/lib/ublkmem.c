/*
 * ublkmem MIB: a ublk device (/dev/ublkb0) whose data lie in this process's memory, one queue of 32: the least that a block device
 * in user space can do. For bench-hit alone.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <liburing.h>
#include <linux/ublk_cmd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#define DEPTH 32
#define BUF 131072
static char *data; static size_t size; static int cdev; static volatile int ready;

static void die(const char *s, int r) { fprintf(stderr, "%s: %s\n", s, strerror(r < 0 ? -r : r)); exit(1); }

static int ctrl(struct io_uring *r, int fd, int op, void *addr, int len)
{
	struct io_uring_sqe *s = io_uring_get_sqe(r);
	memset(s, 0, 128);
	s->opcode = IORING_OP_URING_CMD; s->fd = fd; *(__u32 *)&s->off = op;
	struct ublksrv_ctrl_cmd *c = (void *)&s->addr3;
	c->dev_id = op == UBLK_CMD_ADD_DEV ? 0 : 0; c->queue_id = -1; c->addr = (__u64)addr; c->len = len;
	if (op == UBLK_CMD_START_DEV) c->data[0] = getpid();
	io_uring_submit(r);
	struct io_uring_cqe *q; io_uring_wait_cqe(r, &q);
	int res = q->res; io_uring_cqe_seen(r, q);
	return res;
}

static void *queue(void *u)
{
	struct io_uring r; int e = io_uring_queue_init(DEPTH, &r, IORING_SETUP_COOP_TASKRUN);
	if (e) die("queue ring", e);
	struct ublksrv_io_desc *d = mmap(0, DEPTH * sizeof(*d) < 4096 ? 4096 : DEPTH * sizeof(*d), PROT_READ, MAP_SHARED | MAP_POPULATE, cdev, UBLKSRV_CMD_BUF_OFFSET);
	if (d == MAP_FAILED) die("mmap", 22);
	char *bufs = aligned_alloc(4096, DEPTH * BUF); memset(bufs, 0, DEPTH * BUF);
	void cmd(int tag, int op, int res) {
		struct io_uring_sqe *s = io_uring_get_sqe(&r);
		memset(s, 0, 64);
		s->opcode = IORING_OP_URING_CMD; s->fd = cdev; *(__u32 *)&s->off = op; s->user_data = tag;
		struct ublksrv_io_cmd *c = (void *)&s->addr3;
		c->q_id = 0; c->tag = tag; c->result = res; c->addr = (__u64)(bufs + tag * BUF);
	}
	for (int i = 0; i < DEPTH; i++) cmd(i, UBLK_IO_FETCH_REQ, -1);
	io_uring_submit(&r); ready = 1;
	for (;;) {
		struct io_uring_cqe *q; unsigned h, n = 0;
		io_uring_submit_and_wait(&r, 1);
		io_uring_for_each_cqe(&r, h, q) {
			int t = q->user_data; n++;
			if (q->res != UBLK_IO_RES_OK) { if (q->res != UBLK_IO_RES_ABORT) fprintf(stderr, "tag %d: %d\n", t, q->res); return 0; }
			size_t off = d[t].start_sector << 9, len = (size_t)d[t].nr_sectors << 9;
			switch (ublksrv_get_op(d + t)) {
			case UBLK_IO_OP_READ: memcpy(bufs + t * BUF, data + off, len); break;
			case UBLK_IO_OP_WRITE: memcpy(data + off, bufs + t * BUF, len); break;
			}
			cmd(t, UBLK_IO_COMMIT_AND_FETCH_REQ, len);
		}
		io_uring_cq_advance(&r, n);
	}
}

int main(int c, char **v)
{
	size = atol(v[1]) << 20; data = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct io_uring r; int e = io_uring_queue_init(4, &r, IORING_SETUP_SQE128);
	if (e) die("ring", e);
	int cfd = open("/dev/ublk-control", O_RDWR); if (cfd < 0) { perror("ublk-control"); return 1; }
	struct ublksrv_ctrl_dev_info i = { .nr_hw_queues = 1, .queue_depth = DEPTH, .max_io_buf_bytes = BUF, .dev_id = 0, .ublksrv_pid = getpid() };
	if ((e = ctrl(&r, cfd, UBLK_CMD_ADD_DEV, &i, sizeof(i))) < 0) die("ADD_DEV", e);
	struct ublk_params p = { .len = sizeof(p), .types = UBLK_PARAM_TYPE_BASIC, .basic = { .logical_bs_shift = 12, .physical_bs_shift = 12, .io_min_shift = 12, .io_opt_shift = 12, .max_sectors = BUF >> 9, .dev_sectors = size >> 9 } };
	if ((e = ctrl(&r, cfd, UBLK_CMD_SET_PARAMS, &p, sizeof(p))) < 0) die("SET_PARAMS", e);
	for (int k = 0; k < 50 && (cdev = open("/dev/ublkc0", O_RDWR)) < 0; k++) usleep(20000);
	if (cdev < 0) die("ublkc0", 2);
	pthread_t t; pthread_create(&t, 0, queue, 0);
	while (!ready) usleep(1000);
	if ((e = ctrl(&r, cfd, UBLK_CMD_START_DEV, 0, 0)) < 0) die("START_DEV", e);
	puts("ready"); fflush(stdout);
	pthread_join(t, 0);
}
