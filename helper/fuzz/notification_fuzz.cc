// SPDX-License-Identifier: Apache-2.0
// What comes over the network to `convertor --serve`: a request's head, and a
// notification. The first byte chooses.
#include "base/digest.h"
#include "fuzz/fuzz.h"
#include "registry/reference.h"
#include "serve/http_server.h"
#include "serve/notification.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2 == 1) {
    ServedRequest request;
    size_t length = 0;
    if (ParseHead(text, &request, &length)) Require(request.path.starts_with("/"));
    return 0;
  }
  auto events = ParseNotification(text);
  if (!events.ok()) return 0;
  for (const PushEvent& e : *events)
    Require(IsRepositoryName(e.repository) && ParseDigest(e.digest).ok() &&
            (e.tag.empty() || IsTag(e.tag)));
  return 0;
}
