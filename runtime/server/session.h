// A session as the server sees it: a process, a connection, a folder and a time limit.
#ifndef EDGEVIT_SERVER_SESSION_H_
#define EDGEVIT_SERVER_SESSION_H_

#include <sys/types.h>

#include <string>

#include "net.h"
#include "work_folder.h"

namespace edgevit {

class Session {
 public:
  // Forks the process that serves `client`. `timeout` in seconds, 0 for none. Throws
  // std::runtime_error when there is no folder or process to be had.
  Session(Descriptor client, const std::string& work_parent, double timeout, double idle_timeout);
  // Kills the process, if it still runs, and removes the folder.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // True once the process has ended; then the client has been told why, if it did not know.
  bool Reap();

  // When the session must end, by Now(); kForever without a limit.
  double deadline() const { return deadline_; }

  // Kills the process and tells the client.
  void Kill(const std::string& reason, bool timeout);

  // True when the client has closed its end.
  bool ClientLeft() const;

  pid_t pid() const { return pid_; }

 private:
  void Tell(const std::string& message, bool timeout);

  Descriptor client_;
  WorkFolder folder_;
  Descriptor lifeline_;
  double idle_timeout_;
  double start_;
  double deadline_;
  pid_t pid_ = -1;
  bool ended_ = false;
};

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_SESSION_H_
