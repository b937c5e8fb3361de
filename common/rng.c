/*
 * xoshiro256** seeded through splitmix64, as its authors advise.
 */
#include "common/rng.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "common/bytes.h"

static uint64_t splitmix64(uint64_t *state)
{
	uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t v, int by)
{
	return (v << by) | (v >> (64 - by));
}

void rng_seed(struct rng *rng, uint64_t seed)
{
	for (size_t i = 0; i < ARRAY_SIZE(rng->s); i++)
		rng->s[i] = splitmix64(&seed);
}

uint64_t rng_next(struct rng *rng)
{
	uint64_t *s = rng->s;
	uint64_t result = rotate_left(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;
	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate_left(s[3], 45);
	return result;
}

uint64_t rng_below(struct rng *rng, uint64_t limit)
{
	/* Rejecting the short last interval keeps it uniform. */
	uint64_t floor = -limit % limit;
	uint64_t v;
	do
		v = rng_next(rng);
	while (v < floor);
	return v % limit;
}

void rng_fill(struct rng *rng, void *data, size_t n)
{
	unsigned char *p = data;
	while (n > 0) {
		uint64_t v = rng_next(rng);
		size_t take = MIN(n, sizeof(v));
		memcpy(p, &v, take);
		p += take;
		n -= take;
	}
}

int random_bytes(void *data, size_t n)
{
	unsigned char *p = data;
	while (n > 0) {
		ssize_t got = getrandom(p, n, 0);
		if (got < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += got;
		n -= (size_t)got;
	}
	return 0;
}

int rng_seed_randomly(struct rng *rng)
{
	uint64_t seed;
	int r = random_bytes(&seed, sizeof(seed));
	if (r == 0)
		rng_seed(rng, seed);
	return r;
}
