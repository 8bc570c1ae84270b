// The server's log: one JSON object a line, on stderr.
#ifndef EDGEVIT_SERVER_LOG_H_
#define EDGEVIT_SERVER_LOG_H_

#include <string_view>

#include "json.h"

namespace edgevit {

// Writes {"event": event, ...fields} in one piece, so that lines of parent and session do not mix.
void Log(std::string_view event, const JsonObject& fields = {});

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_LOG_H_
