// Sockets and the clock.
#ifndef EDGEVIT_SERVER_NET_H_
#define EDGEVIT_SERVER_NET_H_

#include <unistd.h>

#include <limits>
#include <string>
#include <utility>

namespace edgevit {

// Owns a file descriptor.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(Descriptor&& other) noexcept : value_(std::exchange(other.value_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      Reset();
      value_ = std::exchange(other.value_, -1);
    }
    return *this;
  }
  ~Descriptor() { Reset(); }

  int get() const { return value_; }
  explicit operator bool() const { return value_ >= 0; }
  void Reset() {
    if (value_ >= 0) close(value_);
    value_ = -1;
  }

 private:
  int value_ = -1;
};

// Seconds on a clock that only goes forward.
double Now();

// A time that never comes.
inline constexpr double kForever = std::numeric_limits<double>::infinity();

// A socket that listens on the first free port in [port, port_end), or on `port` alone when
// port_end is 0. Throws std::runtime_error.
Descriptor Listen(const std::string& host, int port, int port_end);

// The port a socket is bound to.
int LocalPort(int socket);

// Waits for nobody, sends small packets at once, and notices within half a minute that the other
// machine is gone. Options that a kernel or emulator refuses are done without.
void ConfigureConnection(int socket);

// Starts to connect; the socket becomes writable when that is decided. An empty descriptor when it
// failed at once.
Descriptor StartConnect(const std::string& host, int port);

// The outcome of StartConnect: 0 or an errno value.
int ConnectError(int socket);

// Text of the peer's address and port, for the log.
std::string PeerName(int socket);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_NET_H_
