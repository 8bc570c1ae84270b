// Offers the server to a TVM tracker (tvm/rpc/tracker.py) and keeps doing so when the tracker goes
// away and comes back.
#ifndef EDGEVIT_SERVER_TRACKER_H_
#define EDGEVIT_SERVER_TRACKER_H_

#include <string>

#include "net.h"
#include "options.h"

namespace edgevit {

// Never blocks: the server's loop polls descriptor() for events() and calls Advance() when there
// are some or deadline() has come.
class Tracker {
 public:
  // `port` is the one the server listens on.
  Tracker(const Options& options, int port);

  // -1 while there is no connection.
  int descriptor() const { return socket_.get(); }
  short events() const;
  double deadline() const { return deadline_; }
  void Advance();

  // Whether the server can take a client. Each time it becomes free, a new match key is offered.
  void SetFree(bool is_free);

  // The key a client got from the tracker and must show; empty when none is on offer.
  const std::string& match_key() const { return match_key_; }

 private:
  enum class Request { kNone, kHello, kInfo, kPut, kPending };

  void Connect();
  void Disconnect(const std::string& reason);
  void Ask(Request request, const std::string& message);
  void Flush();
  void Receive();
  bool TakeReply(std::string* reply);
  void Handle(const std::string& reply);
  void HandlePending(const std::string& reply);
  void AskNext();
  void Put();

  const Options& options_;
  int port_;
  Descriptor socket_;
  bool connecting_ = false;
  bool known_ = false;  // hello and info are done
  bool free_ = true;
  Request asked_ = Request::kNone;
  std::string in_, out_;
  std::string match_key_;
  double deadline_ = 0;  // when Advance has something to do by itself
  double backoff_;
  double key_missing_since_ = 0;  // 0: the tracker still holds the key
};

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_TRACKER_H_
