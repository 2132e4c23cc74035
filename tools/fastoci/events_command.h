// SPDX-License-Identifier: Apache-2.0
// fastoci events: what happened on this node, as the helper tells it.
#ifndef FASTOCI_TOOLS_FASTOCI_EVENTS_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_EVENTS_COMMAND_H_

#include <CLI/CLI.hpp>
#include <string>

#include "attach/attach.h"

namespace fastoci {

struct EventsRequest {
  std::string image;  // only what speaks of this one
  bool follow = false;
};

CLI::App* AddEventsCommand(CLI::App* app, EventsRequest* request);
// Returns the exit code; with follow it ends by a signal alone.
int RunEvents(const EventsRequest& request, const AttachPaths& paths, bool json);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_EVENTS_COMMAND_H_
