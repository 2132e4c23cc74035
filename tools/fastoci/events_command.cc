// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/events_command.h"
#include "base/json.h"

#include <unistd.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "control/client.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr int64_t kReplyMs = 5000;
constexpr auto kTryAgain = std::chrono::milliseconds(300);

// With local time and the image's name. The message itself names blob and chunk.
void PrintEvent(const Json& event) {
  char when[32] = "-";
  if (auto time = event.find("time"); time != event.end() && time->is_number()) {
    const auto seconds = static_cast<time_t>(time->get<double>());
    struct tm local;
    if (::localtime_r(&seconds, &local)) std::strftime(when, sizeof(when), "%F %T", &local);
  }
  const std::string kind = JsonText(event, "event"), image = JsonText(event, "image");
  std::string message = JsonText(event, "message");
  if (kind == "lost") message = std::to_string(JsonNumber(event, "count")) + " events were lost";
  std::printf("%s  %-7s  %-14s  %s%s%s\n", when, JsonText(event, "level").c_str(), kind.c_str(),
              image.c_str(), image.empty() ? "" : ": ", message.c_str());
  std::fflush(stdout);
}

// Prints all events that the helper has, and with follow also new ones, until it ends.
Status ReadEvents(const EventsRequest& request, const AttachPaths& paths, bool json) {
  std::optional<uint64_t> last;
  std::string error;
  Status status = FollowHelper(
      paths.control_socket, {{"op", "events"}, {"follow", request.follow}}, kReplyMs,
      [&](const std::string& line) {
        if (line.empty()) return true;
        const Json event = Json::parse(line, nullptr, false);
        if (!event.is_object()) return true;
        if (!last) {  // the reply
          error = JsonText(event, "error");
          last = JsonNumber(event, "last");
          return error.empty() && (request.follow || *last > 0);
        }
        if (request.image.empty() || request.image == JsonText(event, "image") ||
            request.image == JsonText(event, "image_id")) {
          if (json) std::printf("%s\n", line.c_str()), std::fflush(stdout);
          else PrintEvent(event);
        }
        return request.follow || JsonNumber(event, "seq") < *last;
      });
  if (status.ok() && !error.empty())
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP, "the helper says: " + error};
  return status;
}

}  // namespace

CLI::App* AddEventsCommand(CLI::App* app, EventsRequest* request) {
  CLI::App* events = app->add_subcommand("events", "show what happened on this node");
  events->add_option("image", request->image, "show only events of this image (name or image id)");
  events->add_flag("-f,--follow", request->follow, "also show new events, until Ctrl-C");
  events->footer("Examples:\n  fastoci events\n  fastoci events --follow --json demo-latest_fastoci");
  return events;
}

int RunEvents(const EventsRequest& request, const AttachPaths& paths, bool json) {
  for (bool waits = false;;) {
    Status status = ReadEvents(request, paths, json);
    if (status.ok()) return kExitOk;
    const Error& e = status.error();
    if (!request.follow || e.kind != ErrorKind::kUnavailable || (!waits && e.err != EPIPE))
      return PrintError(e, json);
    if (e.err == EPIPE) std::fprintf(stderr, "fastoci: the helper has ended; waiting for the next one\n");
    waits = true;
    std::this_thread::sleep_for(kTryAgain);
  }
}

}  // namespace fastoci
