// A connection that has not yet said who it is.
#ifndef EDGEVIT_SERVER_HANDSHAKE_H_
#define EDGEVIT_SERVER_HANDSHAKE_H_

#include <string>

#include "net.h"
#include "protocol.h"

namespace edgevit {

class Handshake {
 public:
  enum class State { kReading, kComplete, kBroken };

  // Waits for the client's words until `deadline`, by Now().
  Handshake(Descriptor socket, double deadline)
      : socket_(std::move(socket)), deadline_(deadline), peer_(PeerName(socket_.get())) {}

  // Reads what has arrived, and not a byte that belongs to the session.
  State Read();

  // Sends the answer; with a welcome, the server's own name too.
  void Reply(Answer answer, const std::string& server_key);

  // The connection, for the session.
  Descriptor TakeSocket() { return std::move(socket_); }

  int socket() const { return socket_.get(); }
  State state() const { return state_; }
  const std::string& peer() const { return peer_; }
  double deadline() const { return deadline_; }
  void set_deadline(double deadline) { deadline_ = deadline; }

  // Grants more time, which is done once.
  void Extend(double seconds) {
    deadline_ = Now() + seconds;
    extended_ = true;
  }
  bool extended() const { return extended_; }

  // "client:KEY", once complete.
  std::string name() const { return key_.substr(0, key_.find(' ')); }

  // Seconds the client asked its session to last at most; 0 when it did not say.
  double asked_timeout() const;

 private:
  Descriptor socket_;
  double deadline_;
  std::string peer_;
  bool extended_ = false;
  std::string received_;
  std::string key_;
  State state_ = State::kReading;
};

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_HANDSHAKE_H_
