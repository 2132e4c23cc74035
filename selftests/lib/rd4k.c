// SPDX-License-Identifier: Apache-2.0
// rd4k FILE READS [SPAN_BYTES]: random 4 KiB reads in 20 batches after a warm-up, O_DIRECT unless BUF is set or it is refused.
// Prints the least and the median batch in ns per read; under vmrun --icount a ns is one guest instruction.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <stdint.h>
#define BATCHES 20
static int cmp(const void *a, const void *b) { double x = *(double *)a, y = *(double *)b; return (x > y) - (x < y); }
int main(int c, char **v)
{
	int d = !getenv("BUF"), f = open(v[1], O_RDONLY | (d ? O_DIRECT : 0));
	if (f < 0) { d = 0; f = open(v[1], O_RDONLY); }
	if (f < 0) return perror(v[1]), 1;
	long n = atol(v[2]) / BATCHES;
	off_t size = c > 3 ? atoll(v[3]) : lseek(f, 0, SEEK_END);
	char *b = aligned_alloc(4096, 4096);
	uint64_t x = 88172645463325252ull;
	double t[BATCHES + 1];
	for (int k = 0; k <= BATCHES; k++) {
		struct timespec s, e;
		clock_gettime(CLOCK_MONOTONIC, &s);
		for (long i = 0; i < n; i++) {
			x ^= x << 13; x ^= x >> 7; x ^= x << 17;
			if (pread(f, b, 4096, (off_t)(x % (size / 4096)) * 4096) != 4096) return perror("pread"), 1;
		}
		clock_gettime(CLOCK_MONOTONIC, &e);
		t[k] = ((e.tv_sec - s.tv_sec) * 1e9 + (e.tv_nsec - s.tv_nsec)) / n;
	}
	qsort(t + 1, BATCHES, sizeof(*t), cmp);
	printf("%s %-9smin %8.0f  median %8.0f\n", v[1], d ? "direct" : "buffered", t[1], t[BATCHES / 2]);
}
