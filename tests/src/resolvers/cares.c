/*
 * Prints the addresses of a name, one a line, as c-ares finds them.
 */
#include <ares.h>
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <sys/select.h>

static int outcome;

static void found(void *nothing, int status, int timeouts, struct ares_addrinfo *result)
{
	(void)nothing;
	(void)timeouts;
	outcome = status;
	if (status != ARES_SUCCESS) {
		fprintf(stderr, "%s\n", ares_strerror(status));
		return;
	}
	for (struct ares_addrinfo_node *node = result->nodes; node; node = node->ai_next) {
		const void *address = node->ai_family == AF_INET ?
			(const void *)&((struct sockaddr_in *)node->ai_addr)->sin_addr :
			(const void *)&((struct sockaddr_in6 *)node->ai_addr)->sin6_addr;
		char text[64];

		if (inet_ntop(node->ai_family, address, text, sizeof(text)))
			puts(text);
	}
	ares_freeaddrinfo(result);
}

int main(int count, char **words)
{
	struct ares_addrinfo_hints hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
	ares_channel channel;

	if (count != 2 || ares_library_init(ARES_LIB_INIT_ALL) || ares_init(&channel))
		return 2;
	ares_getaddrinfo(channel, words[1], NULL, &hints, found, NULL);
	for (;;) {
		struct timeval most = {.tv_sec = 5}, time;
		fd_set readable, writable;

		FD_ZERO(&readable);
		FD_ZERO(&writable);
		int last = ares_fds(channel, &readable, &writable);

		if (!last)
			break;
		select(last, &readable, &writable, NULL, ares_timeout(channel, &most, &time));
		ares_process(channel, &readable, &writable);
	}
	return outcome != ARES_SUCCESS;
}
