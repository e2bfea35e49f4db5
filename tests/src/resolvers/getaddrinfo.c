/*
 * Prints the addresses of a name, one a line, as getaddrinfo(3) of the C library finds them that this is built with.
 */
#include <netdb.h>
#include <stdio.h>
#include <sys/socket.h>

int main(int count, char **words)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
	int error = count == 2 ? getaddrinfo(words[1], NULL, &hints, &found) : EAI_NONAME;

	if (error) {
		fprintf(stderr, "%s\n", gai_strerror(error));
		return 1;
	}
	for (; found; found = found->ai_next) {
		char text[64];

		if (!getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST))
			puts(text);
	}
	return 0;
}
