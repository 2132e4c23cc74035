// SPDX-License-Identifier: Apache-2.0
// The messages that registries send after a push: docker-registry's notifications (an
// envelope of events) and Harbor's webhooks. They are hostile until parsed.
#ifndef FASTOCI_SERVE_NOTIFICATION_H_
#define FASTOCI_SERVE_NOTIFICATION_H_

#include <string>
#include <vector>

#include "base/result.h"

namespace fastoci {

struct PushEvent {
  std::string repository;  // without the registry's host
  std::string tag;         // "" if it was pushed by digest alone
  std::string digest;      // of a manifest or index
};

// Returns the pushes of manifests in a message, with well-formed names and digests. Pulls,
// deletions and blobs are left out. kInvalid if the message has neither form.
Result<std::vector<PushEvent>> ParseNotification(const std::string& body);

}  // namespace fastoci

#endif  // FASTOCI_SERVE_NOTIFICATION_H_
