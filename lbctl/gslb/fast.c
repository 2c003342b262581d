// The short way of `responder.py`, in C, reading the same blobs in place.
//
// It answers a query only if it is as plain as can be: a known question, at most an OPT
// record with a client subnet and a cookie, an answer that fits. All else it leaves to
// Python (LB_ASK), which is also what a box without a C compiler runs for everything. A
// property test says that both give the same octets.
//
// Built when the server starts (`native.py`): cc -O2 -shared -fPIC.

#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <netinet/in.h>
#include <unistd.h>

enum { LB_ASK = 0, LB_DROP = -1, LB_SLIP = -2 };  // what a reply's length may be instead
enum { HEADER = 12, PLAIN = 512, UDP_SIZE = 1232, REASONS = 16, BATCH = 64 };
enum { OPT = 41, ECS = 8, COOKIE = 10, LIFE = 3600, RENEW = 1800, AHEAD = 300 };
enum { WINDOW = 1 << 16, PROBES = 8 };
#define NONE 0xffffffffu
#define TURN 3 // u64 index in the board
#define BOARD_SIZE 32

struct section { uint64_t offset, octets; };
struct blob { uint8_t *data; size_t size; };

// Laid out as answers.py says.
struct slot { uint32_t pool, choice; };
struct pool { uint32_t map, mode, prefix4, prefix6, cell; };
struct cell { uint32_t ring, length; };
struct answer { uint16_t flags, an, ns, ar, length, pad; uint32_t label; uint8_t body[]; };

struct meter { uint64_t network; uint32_t second, sent, failed, pad; };

struct server {
	struct blob names, networks, answers;
	uint32_t table_size, slots;
	uint32_t responses, errors, slip, second, now;
	uint32_t *turns;
	uint64_t *counts;
	uint32_t *touched, touches, choices;
	uint8_t secret[32];
	uint32_t secret_length;
	uint64_t dropped;
	uint32_t crc[256];
	const volatile uint64_t *board; // as board.py lays it out
	uint64_t turn;			 // of the board, when it was looked at last
	uint64_t key[3];  // of the meters' hash: nobody knows which networks meet
	struct meter meters[WINDOW];
};

static const void *section(const struct blob *blob, unsigned number)
{
	const struct section *table = (const void *)(blob->data + 24);
	return blob->data + table[number].offset;
}

static size_t octets(const struct blob *blob, unsigned number)
{
	return ((const struct section *)(blob->data + 24))[number].octets;
}

static int map_file(struct blob *blob, const char *path)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	void *data = MAP_FAILED;
	if (fstat(fd, &status) == 0)
		data = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (data == MAP_FAILED)
		return -1;
	if (blob->data)
		munmap(blob->data, blob->size);
	*blob = (struct blob){ data, status.st_size };
	return 0;
}

struct server *lb_open(uint32_t responses, uint32_t errors, uint32_t slip,
		       const uint8_t *secret, uint32_t length)
{
	struct server *s = calloc(1, sizeof *s);
	if (!s || length > sizeof s->secret || getrandom(s->key, sizeof s->key, 0) != sizeof s->key) {
		free(s);
		return NULL;
	}
	s->responses = responses, s->errors = errors, s->slip = slip;
	memcpy(s->secret, secret, s->secret_length = length);
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t c = i;
		for (int bit = 0; bit < 8; bit++)
			c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
		s->crc[i] = c;
	}
	return s;
}

// Look at the board in this file before answering: what has changed since `lb_seen` is left
// to Python, which loads the new blobs first.
int lb_watch(struct server *s, const char *path)
{
	struct blob board = { 0 };
	if (map_file(&board, path))
		return -1;
	s->board = (const void *)board.data;
	return 0;
}

void lb_seen(struct server *s, uint64_t turn)
{
	s->turn = turn;
}

static int stale(const struct server *s)
{
	return s->board && s->board[TURN] != s->turn;
}

void lb_close(struct server *s)
{
	if (s->board)
		munmap((void *)s->board, BOARD_SIZE);
	struct blob *blobs[] = { &s->names, &s->networks, &s->answers };
	for (int i = 0; i < 3; i++)
		if (blobs[i]->data)
			munmap(blobs[i]->data, blobs[i]->size);
	free(s->turns), free(s->counts), free(s->touched), free(s);
}

// Serve from these files. NULL: that part stays. Python has checked them, and has taken
// the counts (`lb_harvest`), which are numbered by the answers.
int lb_load(struct server *s, const char *names, const char *networks, const char *answers)
{
	if ((names && map_file(&s->names, names)) || (networks && map_file(&s->networks, networks)))
		return -1;
	if (map_file(&s->answers, answers))
		return -1;
	s->table_size = octets(&s->names, 0) / 4;
	s->slots = octets(&s->answers, 0) / sizeof(struct slot);
	s->choices = octets(&s->answers, 4) / 4;
	free(s->turns), free(s->counts), free(s->touched);
	s->turns = calloc(s->slots + 1, sizeof *s->turns);
	s->counts = calloc((size_t)s->choices * REASONS + 1, sizeof *s->counts);
	s->touched = calloc((size_t)s->choices * REASONS + 1, sizeof *s->touched);
	s->touches = 0;
	return s->turns && s->counts && s->touched ? 0 : -1;
}

void lb_tick(struct server *s, uint32_t second, uint32_t unix_seconds)
{
	s->second = second, s->now = unix_seconds;
}

// Up to `most` counters that moved: index (choice x REASONS + reason), and by how much.
uint32_t lb_harvest(struct server *s, uint32_t *index, uint64_t *count, uint32_t most)
{
	uint32_t taken = 0;
	while (s->touches && taken < most) {
		uint32_t at = s->touched[--s->touches];
		index[taken] = at, count[taken++] = s->counts[at];
		s->counts[at] = 0;
	}
	return taken;
}

// Replies that the rate limit kept back without a word to Python, since the last time.
uint64_t lb_dropped(struct server *s)
{
	uint64_t dropped = s->dropped;
	s->dropped = 0;
	return dropped;
}

// --- rate limit --------------------------------------------------------------------------

// Two rounds of multiply-shift with odd multipliers drawn at the start (Dietzfelbinger et al.,
// 1997): two networks meet by chance only.
static uint32_t place_of(const struct server *s, uint64_t network)
{
	uint64_t hash = (network + s->key[0]) * (s->key[1] | 1);
	hash = (hash ^ hash >> 32) * (s->key[2] | 1);
	return hash >> 32;
}

// Count one reply to `network`; 0: send, 1: slip, 2: drop. As rrl.Window.rule, but where
// there is no room a network shares the meter at its place: both get less, never more.
int lb_rule(struct server *s, uint64_t network, int error)
{
	uint32_t place = place_of(s, network);
	struct meter *meter = NULL;
	for (unsigned i = 0; i < PROBES; i++) {
		struct meter *one = &s->meters[(place + i) % WINDOW];
		if (one->network == network && one->second == s->second) {
			meter = one;
			break;
		}
		if (!meter && one->second != s->second)
			meter = one;  // last used in another second: free
	}
	if (!meter)
		meter = &s->meters[place % WINDOW];
	else if (meter->network != network || meter->second != s->second)
		*meter = (struct meter){ .network = network, .second = s->second };
	int64_t over = (int64_t)++meter->sent - s->responses;
	if (error && (int64_t)++meter->failed - s->errors > over)
		over = (int64_t)meter->failed - s->errors;
	if (over <= 0)
		return 0;
	return s->slip && over % s->slip == 0 ? 1 : 2;
}

static uint64_t network_of(const uint8_t *source, unsigned length)
{
	uint64_t network = length;  // families do not meet
	for (unsigned i = 0; i < (length == 4 ? 3 : 7); i++)
		network = network << 8 | source[i];
	return network;
}

// --- BLAKE2s (RFC 7693), for cookies: one block of key, one of at most 64 octets ------------

static const uint32_t IV[8] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};
static const uint8_t SIGMA[10][16] = {
	{ 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 },
	{ 14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3 },
	{ 11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4 },
	{ 7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8 },
	{ 9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13 },
	{ 2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9 },
	{ 12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11 },
	{ 13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10 },
	{ 6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5 },
	{ 10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0 },
};

static uint32_t rotate(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

static void mix(uint32_t *v, int a, int b, int c, int d, uint32_t x, uint32_t y)
{
	v[a] += v[b] + x, v[d] = rotate(v[d] ^ v[a], 16);
	v[c] += v[d], v[b] = rotate(v[b] ^ v[c], 12);
	v[a] += v[b] + y, v[d] = rotate(v[d] ^ v[a], 8);
	v[c] += v[d], v[b] = rotate(v[b] ^ v[c], 7);
}

static void compress(uint32_t *h, const uint8_t *block, uint32_t total, int last)
{
	uint32_t v[16], m[16];
	memcpy(m, block, sizeof m);
	memcpy(v, h, 32), memcpy(v + 8, IV, 32);
	v[12] ^= total;
	if (last)
		v[14] = ~v[14];
	for (int round = 0; round < 10; round++) {
		const uint8_t *s = SIGMA[round];
		for (int i = 0; i < 4; i++)
			mix(v, i, 4 + i, 8 + i, 12 + i, m[s[2 * i]], m[s[2 * i + 1]]);
		for (int i = 0; i < 4; i++)
			mix(v, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[s[8 + 2 * i]],
			    m[s[9 + 2 * i]]);
	}
	for (int i = 0; i < 8; i++)
		h[i] ^= v[i] ^ v[8 + i];
}

static void sign(const struct server *s, const uint8_t *signed_, const uint8_t *source,
		 unsigned source_length, uint8_t *hash)
{
	uint8_t block[64] = { 0 };
	uint32_t h[8];
	memcpy(h, IV, sizeof h);
	h[0] ^= 8 | s->secret_length << 8 | 1 << 16 | 1 << 24;
	memcpy(block, s->secret, s->secret_length);
	compress(h, block, 64, 0);
	memset(block, 0, sizeof block);
	memcpy(block, signed_, 16), memcpy(block + 16, source, source_length);
	compress(h, block, 64 + 16 + source_length, 1);
	memcpy(hash, h, 8);
}

// Our cookie in reply to theirs, as Cookies.reply; 1: theirs was ours, 0: it was none, -1:
// it claims to be ours and is not by this secret (another may have signed it).
static int cookie_reply(const struct server *s, const uint8_t *theirs, unsigned length,
			const uint8_t *source, unsigned source_length, uint8_t *ours)
{
	static const uint8_t version[4] = { 0xf1, 0, 0, 0 };
	uint8_t hash[8];
	int shown = 0;
	if (length == 24 && !memcmp(theirs + 8, version, 4)) {
		uint32_t then;
		memcpy(&then, theirs + 12, 4);
		int32_t age = (int32_t)(s->now - __builtin_bswap32(then));
		if (age >= -AHEAD && age <= LIFE) {
			sign(s, theirs, source, source_length, hash);
			if (memcmp(hash, theirs + 16, 8))
				return -1;
			shown = 1;
			if (age <= RENEW) {
				memcpy(ours, theirs, 24);
				return 1;
			}
		}
	}
	uint32_t stamp = __builtin_bswap32(s->now);
	memcpy(ours, theirs, 8), memcpy(ours + 8, version, 4), memcpy(ours + 12, &stamp, 4);
	sign(s, ours, source, source_length, ours + 16);
	return shown;
}

// --- look-ups -----------------------------------------------------------------------------

static uint32_t crc32(const struct server *s, const uint8_t *data, unsigned length)
{
	uint32_t c = ~0u;
	for (unsigned i = 0; i < length; i++)
		c = s->crc[(c ^ data[i]) & 0xff] ^ c >> 8;
	return ~c;
}

// The slot of a question in lower case, or NONE.
static uint32_t find_slot(const struct server *s, const uint8_t *key, unsigned length)
{
	const uint32_t *table = section(&s->names, 0);
	const uint8_t *records = section(&s->names, 1);
	for (uint32_t at = crc32(s, key, length) % s->table_size; table[at];
	     at = (at + 1) % s->table_size) {
		const uint8_t *record = records + table[at] - 1;
		uint16_t size;
		uint32_t slot;
		memcpy(&slot, record, 4), memcpy(&size, record + 4, 2);
		if (size == length && !memcmp(record + 6, key, length))
			return slot;
	}
	return NONE;
}

// region << 8 | length of the piece that holds `key`.
static uint32_t find_region(const struct server *s, uint32_t map, int v4, uint64_t key)
{
	unsigned base = 6 * map + (v4 ? 0 : 3);
	const uint32_t *first = section(&s->networks, base);
	const uint32_t *values = section(&s->networks, base + 2);
	const void *starts = section(&s->networks, base + 1);
	uint32_t upper = key >> (v4 ? 16 : 48), low = first[upper], high = first[upper + 1];
	while (low < high) {
		uint32_t middle = (low + high) / 2;
		uint64_t start = v4 ? ((const uint32_t *)starts)[middle] : ((const uint64_t *)starts)[middle];
		if (start <= key)
			low = middle + 1;
		else
			high = middle;
	}
	return values[low - 1];
}

struct picked { const struct answer *answer; uint32_t counter; uint8_t scope; };

static struct picked pick(struct server *s, uint32_t number, int v4, uint64_t key)
{
	const struct slot *slot = (const struct slot *)section(&s->answers, 0) + number;
	const uint32_t *choices = section(&s->answers, 4);
	uint32_t choice = 0, reason = 0, scope = 0;
	if (slot->pool != NONE) {
		const struct pool *pool = (const struct pool *)section(&s->answers, 1) + slot->pool;
		uint32_t value = find_region(s, pool->map, v4, key);
		const struct cell *cell = (const struct cell *)section(&s->answers, 2) + pool->cell + (value >> 8);
		const uint32_t *ring = (const uint32_t *)section(&s->answers, 3) + cell->ring;
		uint32_t at = 0;
		scope = value & 0xff;
		if (cell->length > 1 && pool->mode == 1) {
			uint32_t prefix = v4 ? pool->prefix4 : pool->prefix6;
			uint64_t sticky = __builtin_bswap64(key >> ((v4 ? 32 : 64) - prefix));
			at = crc32(s, (const uint8_t *)&sticky, 8) % cell->length;
			scope = scope > prefix ? scope : prefix;
		} else if (cell->length > 1) {
			at = ++s->turns[number] & (cell->length - 1);
		}
		choice = ring[at] & 0xffff, reason = ring[at] >> 16;
	}
	choice += slot->choice;
	const uint8_t *bytes = section(&s->answers, 5);
	return (struct picked){ (const void *)(bytes + choices[choice]), choice * REASONS + reason, scope };
}

// --- one query ----------------------------------------------------------------------------

struct options {
	const uint8_t *subnet, *cookie;  // values
	unsigned subnet_length, cookie_length;
	int v4;
	uint64_t key;
};

static unsigned be16(const uint8_t *p)
{
	return p[0] << 8 | p[1];
}

// A subnet as `edns.parse_subnet` wants it, of a source that is not 0. 0: leave it to Python.
static int read_subnet(struct options *o)
{
	const uint8_t *v = o->subnet;
	unsigned source = v[2], n = o->subnet_length - 4, bits;
	if (o->subnet_length < 5 || v[0] || (v[1] != 1 && v[1] != 2) || v[3])
		return 0;
	bits = v[1] == 1 ? 32 : 128;
	if (source > bits || n != (source + 7) / 8 || (source % 8 && v[3 + n] & 0xff >> source % 8))
		return 0;
	o->v4 = v[1] == 1;
	o->key = 0;
	for (unsigned i = 0; i < (o->v4 ? 4u : 8u); i++)
		o->key = o->key << 8 | (i < n ? v[4 + i] : 0);
	return 1;
}

static int read_options(const uint8_t *at, const uint8_t *end, struct options *o)
{
	while (at < end) {
		if (end - at < 4)
			return 0;
		unsigned code = be16(at), length = be16(at + 2);
		at += 4;
		if (length > end - at)
			return 0;
		if (code == ECS && !o->subnet)
			o->subnet = at, o->subnet_length = length;
		else if (code == COOKIE && !o->cookie && (length == 8 || (length >= 16 && length <= 40)))
			o->cookie = at, o->cookie_length = length;
		else
			return 0;
		at += length;
	}
	return !o->subnet || (o->subnet_length >= 4 && read_subnet(o));
}

// Write the reply to `query` into `reply` (UDP_SIZE octets); its length, or an LB_.
int lb_reply(struct server *s, const uint8_t *query, unsigned length, const uint8_t *source,
	     unsigned source_length, uint8_t *reply)
{
	static const uint8_t plain[7] = { 0, 1, 0, 0, 0, 0, 0 };  // counts, to the last's upper half
	if (length < HEADER + 5 || query[2] & ~1 || query[3] & ~0x20 || memcmp(query + 4, plain, 7) ||
	    query[11] > 1)
		return LB_ASK;

	uint8_t key[260];
	unsigned at = HEADER, label;
	while (at < length && (label = query[at])) {
		if (label > 63 || at + label + 1 >= length || at + label - HEADER > 253)
			return LB_ASK;
		for (unsigned i = 0; i <= label; i++) {
			uint8_t c = query[at + i];
			key[at + i - HEADER] = c >= 'A' && c <= 'Z' ? c | 0x20 : c;
		}
		at += label + 1;
	}
	if (at + 5 > length || (query[at + 1] == 0xff && query[at + 2] >= 0xfd) ||
	    (!query[at + 1] && !query[at + 2]))
		return LB_ASK;
	memcpy(key + at - HEADER, query + at, 5);
	unsigned end = at + 5, question = end - HEADER;
	uint32_t slot = find_slot(s, key, question);
	if (slot == NONE)
		return LB_ASK;

	struct options o = { .v4 = source_length == 4 };
	const uint8_t *opt = query + end;
	unsigned opt_length = length - end;
	if (query[11]) {
		if (opt_length < 11 || opt[0] || be16(opt + 1) != OPT || opt[6] ||
		    be16(opt + 9) != opt_length - 11 || opt_length > 255 ||
		    !read_options(opt + 11, opt + opt_length, &o))
			return LB_ASK;
	} else if (opt_length) {
		return LB_ASK;
	}
	if (!o.subnet)
		for (unsigned i = 0; i < (o.v4 ? 4u : 8u); i++)
			o.key = o.key << 8 | source[i];

	uint8_t ours[24];
	int shown = 0;
	if (o.cookie)
		shown = cookie_reply(s, o.cookie, o.cookie_length, source, source_length, ours);
	unsigned limit = PLAIN;
	if (shown < 0)
		return LB_ASK;
	if (shown) {
		unsigned size = be16(opt + 3);
		limit = size < PLAIN ? PLAIN : size > UDP_SIZE ? UDP_SIZE : size;
	}
	uint32_t turn = s->turns[slot];
	struct picked found = pick(s, slot, o.v4, o.key);
	const struct answer *answer = found.answer;
	unsigned rest = (o.subnet ? 4 + o.subnet_length : 0) + (o.cookie ? 28 : 0);
	unsigned total = end + answer->length + (query[11] ? 11 + rest : 0);
	if (total > limit) {
		s->turns[slot] = turn;
		return LB_ASK;
	}
	if (!shown) {
		int ruling = lb_rule(s, network_of(source, source_length), answer->flags & 0xf);
		s->dropped += ruling == 2;
		if (ruling)
			return ruling == 2 ? LB_DROP : LB_SLIP;
	}

	uint16_t flags = 0x8000 | answer->flags | (query[2] & 1) << 8;
	uint16_t head[5] = { flags, 1, answer->an, answer->ns, answer->ar + query[11] };
	for (int i = 0; i < 5; i++)
		head[i] = __builtin_bswap16(head[i]);
	uint8_t *out = reply;
	memcpy(out, query, 2), memcpy(out + 2, head, 10), memcpy(out + HEADER, query + HEADER, question);
	out += end;
	memcpy(out, answer->body, answer->length), out += answer->length;
	if (query[11]) {
		const uint8_t opening[11] = { 0, 0, OPT, UDP_SIZE >> 8, UDP_SIZE & 0xff, 0, 0,
					      opt[7] & 0x80, 0, rest >> 8, rest };
		memcpy(out, opening, 11), out += 11;
		if (o.subnet) {
			memcpy(out, o.subnet - 4, 4 + o.subnet_length);
			out[7] = found.scope, out += 4 + o.subnet_length;
		}
		if (o.cookie) {
			static const uint8_t header[4] = { 0, COOKIE, 0, 24 };
			memcpy(out, header, 4), memcpy(out + 4, ours, 24), out += 28;
		}
	}
	if (!s->counts[found.counter]++)
		s->touched[s->touches++] = found.counter;
	return out - reply;
}

// --- a batch ------------------------------------------------------------------------------

// Receive into `in`, answer what can be answered from `out`; return how many came (or -1).
static int batch(struct server *s, int fd, struct mmsghdr *in, struct mmsghdr *out,
		 uint16_t *missed, uint32_t *misses)
{
	int count = recvmmsg(fd, in, BATCH, MSG_WAITFORONE, NULL), ready = 0, done = 0;
	int news = count > 0 && stale(s);
	*misses = 0;
	for (int i = 0; i < count; i++) {
		struct sockaddr *name = in[i].msg_hdr.msg_name;
		int v4 = name->sa_family == AF_INET;
		const uint8_t *source = v4 ? (void *)&((struct sockaddr_in *)name)->sin_addr
					   : (void *)&((struct sockaddr_in6 *)name)->sin6_addr;
		struct msghdr *to = &out[ready].msg_hdr;
		int n = news ? LB_ASK
			     : lb_reply(s, in[i].msg_hdr.msg_iov->iov_base, in[i].msg_len, source,
					v4 ? 4 : 16, to->msg_iov->iov_base);
		if (n > 0) {
			to->msg_iov->iov_len = n;
			to->msg_name = name, to->msg_namelen = in[i].msg_hdr.msg_namelen;
			ready++;
		} else if (n != LB_DROP) {
			missed[(*misses)++] = i | (n == LB_SLIP ? 0x8000 : 0);
		}
		in[i].msg_hdr.msg_namelen = sizeof(struct sockaddr_in6);
	}
	while (done < ready) {
		int sent = sendmmsg(fd, out + done, ready - done, 0);
		done += sent > 0 ? sent : 1;
	}
	return count;
}

static uint64_t coarse_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &now); // 4 ms coarse, and no system call
	return now.tv_sec * 1000000000ull + now.tv_nsec;
}

// Batches, until one leaves something to Python, or none comes, or `patience` nanoseconds
// have passed: a call from Python costs as much as an answer. Returns the last batch's count.
// missed: the numbers of those left to Python, `*misses` of them; a number with 0x8000 is
// over the rate limit and may slip.
int lb_serve(struct server *s, int fd, struct mmsghdr *in, struct mmsghdr *out, uint16_t *missed,
	     uint32_t *misses, uint64_t patience)
{
	uint64_t end = coarse_ns() + patience;
	int count;
	do {
		count = batch(s, fd, in, out, missed, misses);
	} while (count > 0 && !*misses && coarse_ns() < end);
	return count;
}
