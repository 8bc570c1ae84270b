// Command line of the server.
#ifndef EDGEVIT_SERVER_OPTIONS_H_
#define EDGEVIT_SERVER_OPTIONS_H_

#include <stdexcept>
#include <string>

namespace edgevit {

struct Options {
  std::string host = "127.0.0.1";
  int port = 0;      // 0: any free port
  int port_end = 0;  // first port not to try; 0: only `port`
  std::string tracker_host;
  int tracker_port = 0;     // 0: no tracker
  std::string key;          // name of this kind of device
  std::string custom_addr;  // address the tracker hands to clients; empty: the one it sees
  std::string work_dir;     // empty: TMPDIR, /tmp or /data/local/tmp
  double idle_timeout = 300;
  double session_timeout = 0;  // 0: none
  double handshake_timeout = 5;
  bool exit_with_stdin = false;
  bool once = false;
  bool version = false;
  bool help = false;
};

class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Throws UsageError.
Options ParseOptions(int argc, char** argv);

extern const char kUsage[];

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_OPTIONS_H_
