#include "net.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace edgevit {
namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

Addresses LookUp(const std::string& host, int port, int flags, int* status) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  *status = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  return Addresses(*status == 0 ? found : nullptr, freeaddrinfo);
}

void SetOption(int socket, int level, int name, int value) {
  (void)setsockopt(socket, level, name, &value, sizeof(value));
}

Descriptor NewSocket(const addrinfo& address) {
  return Descriptor(
      socket(address.ai_family, address.ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

}  // namespace

double Now() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

Descriptor Listen(const std::string& host, int port, int port_end) {
  int error = EADDRINUSE;
  const int end = port_end == 0 ? port + 1 : port_end;
  for (int candidate = port; candidate < end; ++candidate) {
    int status = 0;
    const Addresses address = LookUp(host, candidate, AI_PASSIVE, &status);
    if (!address) throw std::runtime_error("cannot resolve " + host + ": " + gai_strerror(status));
    Descriptor socket = NewSocket(*address);
    if (!socket) throw std::runtime_error(std::string("no socket: ") + std::strerror(errno));
    SetOption(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(socket.get(), address->ai_addr, address->ai_addrlen) == 0 &&
        listen(socket.get(), 16) == 0) {
      return socket;
    }
    error = errno;
    if (error != EADDRINUSE) break;
  }
  throw std::runtime_error("cannot listen on " + host + ":" + std::to_string(port) + ": " +
                           std::strerror(error));
}

int LocalPort(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  if (getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return address.ss_family == AF_INET6
             ? ntohs(reinterpret_cast<const sockaddr_in6*>(&address)->sin6_port)
             : ntohs(reinterpret_cast<const sockaddr_in*>(&address)->sin_port);
}

void ConfigureConnection(int socket) {
  (void)fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
  SetOption(socket, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPIDLE, 10);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPINTVL, 5);
  SetOption(socket, IPPROTO_TCP, TCP_KEEPCNT, 3);
  SetOption(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, 30000);
}

Descriptor StartConnect(const std::string& host, int port) {
  int status = 0;
  const Addresses address = LookUp(host, port, 0, &status);
  if (!address) return {};
  Descriptor socket = NewSocket(*address);
  if (!socket) return {};
  if (connect(socket.get(), address->ai_addr, address->ai_addrlen) != 0 && errno != EINPROGRESS) {
    return {};
  }
  ConfigureConnection(socket.get());
  return socket;
}

int ConnectError(int socket) {
  int error = 0;
  socklen_t size = sizeof(error);
  return getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) == 0 ? error : errno;
}

std::string PeerName(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0 ||
      getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof(host), port,
                  sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "unknown";
  }
  return std::string(host) + ":" + port;
}

}  // namespace edgevit
