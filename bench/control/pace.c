// The paced half of the DNS load generator: one query at a time at a steady rate, so that what
// is measured is the server and not the interpreter that asks it.

#define _GNU_SOURCE
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

#define IDS 65536

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

// Query k % count of those that lie end to end in `data`, each beginning at `at`, with its number
// in `count` as its id; `rate` a second for `seconds`, then `patience` seconds for the answers.
// took: how long each query that was sent has waited, in seconds. One without an answer has
// waited until its id was used again or until the end, and is told by its sign.
// Returns how many were sent, `most` at most.
long pace(int fd, const uint8_t *data, const uint32_t *at, uint32_t count, double rate,
	  double seconds, double patience, double *took, long most)
{
	static double asked[IDS];
	uint8_t reply[1500];
	long sent = 0, done = 0;
	double start = now(), time;

	for (uint32_t id = 0; id < IDS; id++)
		asked[id] = 0;
	while ((time = now()) - start < seconds + (done < sent ? patience : 0)) {
		if (time - start < seconds && sent < most && sent < (long)((time - start) * rate)) {
			uint32_t k = sent % count;

			if (asked[k])
				took[done++] = asked[k] - time;
			asked[k] = now();
			send(fd, data + at[k], at[k + 1] - at[k], 0);
			sent++;
		}
		if (recv(fd, reply, sizeof(reply), MSG_DONTWAIT) < 2)
			continue;
		uint32_t id = reply[0] << 8 | reply[1];

		if (asked[id]) {
			took[done++] = now() - asked[id];
			asked[id] = 0;
		}
	}
	for (uint32_t id = 0; id < IDS; id++)
		if (asked[id])
			took[done++] = asked[id] - time;
	return sent;
}
