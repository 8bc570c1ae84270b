// TCP sockets for TVM's RPC channel.
#ifndef EDGEVIT_SHIM_SUPPORT_SOCKET_H_
#define EDGEVIT_SHIM_SUPPORT_SOCKET_H_

#include <netdb.h>
#include <sys/socket.h>
#include <tvm/ffi/error.h>
#include <tvm/support/io.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

namespace tvm {
namespace support {

// The first address a host name resolves to.
class SockAddr {
 public:
  SockAddr(const char* host, int port) : text_(std::string(host) + ":" + std::to_string(port)) {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int status = getaddrinfo(host, std::to_string(port).c_str(), &hints, &found);
    if (status != 0) {
      TVM_FFI_THROW(RuntimeError) << "cannot resolve " << text_ << ": " << gai_strerror(status);
    }
    std::memcpy(&address_, found->ai_addr, found->ai_addrlen);
    size_ = found->ai_addrlen;
    freeaddrinfo(found);
  }

  int ss_family() const { return address_.ss_family; }
  std::string AsString() const { return text_; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t size() const { return size_; }

 private:
  std::string text_;
  sockaddr_storage address_{};
  socklen_t size_ = 0;
};

class Socket {
 public:
  using SockType = int;

  [[noreturn]] static void Error(const char* what) {
    TVM_FFI_THROW(RuntimeError) << what << ": " << std::strerror(errno);
    TVM_FFI_UNREACHABLE();
  }
};

// A handle to a descriptor: copies share it and Close() is explicit, as TVM's channel expects.
class TCPSocket : public Socket {
 public:
  TCPSocket() = default;
  explicit TCPSocket(SockType descriptor) : descriptor_(descriptor) {}

  void Create(int family) { descriptor_ = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0); }
  bool Connect(const SockAddr& address) {
    return ::connect(descriptor_, address.get(), address.size()) == 0;
  }
  bool BadSocket() const { return descriptor_ < 0; }
  void Close() {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
  }

  ssize_t Send(const void* data, size_t size) {
    ssize_t sent;
    do {
      sent = ::send(descriptor_, data, size, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent;
  }

  ssize_t Recv(void* data, size_t size) {
    ssize_t received;
    do {
      received = ::recv(descriptor_, data, size, 0);
    } while (received < 0 && errno == EINTR);
    return received;
  }

  size_t SendAll(const void* data, size_t size) {
    size_t done = 0;
    while (done < size) {
      const ssize_t sent = Send(static_cast<const char*>(data) + done, size - done);
      if (sent <= 0) break;
      done += static_cast<size_t>(sent);
    }
    return done;
  }

  size_t RecvAll(void* data, size_t size) {
    size_t done = 0;
    while (done < size) {
      const ssize_t received = Recv(static_cast<char*>(data) + done, size - done);
      if (received <= 0) break;
      done += static_cast<size_t>(received);
    }
    return done;
  }

 private:
  SockType descriptor_ = -1;
};

}  // namespace support
}  // namespace tvm

#endif  // EDGEVIT_SHIM_SUPPORT_SOCKET_H_
