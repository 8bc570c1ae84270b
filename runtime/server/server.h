// The server's main loop: takes connections, runs one session at a time, keeps every limit.
#ifndef EDGEVIT_SERVER_SERVER_H_
#define EDGEVIT_SERVER_SERVER_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "handshake.h"
#include "net.h"
#include "options.h"
#include "session.h"
#include "tracker.h"

namespace edgevit {

class Server {
 public:
  // Listens. Throws std::runtime_error.
  explicit Server(const Options& options);

  // Serves until a signal, the end of standard input, or the end of the only session. Returns the
  // exit status.
  int Run();

 private:
  void Announce() const;
  void WaitForEvents();
  double NextDeadline() const;
  void ReadSignals();
  void ReadStdin();
  void Accept();
  void AdvanceHandshakes();
  bool Advance(Handshake* handshake);
  bool WaitForTurn(Handshake* handshake);
  void StartSession(Handshake* handshake);
  void AdvanceSession();

  const Options& options_;
  std::string work_parent_;
  Descriptor listener_;
  int port_;
  Descriptor signals_;  // read end of the pipe that signal handlers write to
  std::optional<Tracker> tracker_;
  std::vector<Handshake> handshakes_;
  std::unique_ptr<Session> session_;
  bool stop_ = false;
};

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_SERVER_H_
