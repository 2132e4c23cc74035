// SPDX-License-Identifier: Apache-2.0
#include "serve/notification.h"

#include "base/digest.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxEvents = 1000;

// An event that is not well-formed names nothing that could be converted.
void Add(PushEvent event, std::vector<PushEvent>* events) {
  if (!IsRepositoryName(event.repository) || !ParseDigest(event.digest).ok()) return;
  if (!event.tag.empty() && !IsTag(event.tag)) event.tag.clear();
  if (event.tag == event.digest) event.tag.clear();
  events->push_back(std::move(event));
}

// By its name: a registry may hold manifests of types that we do not know.
bool SaysManifest(const std::string& type) {
  return type.find("manifest") != std::string::npos || type.find("image.index") != std::string::npos;
}

void TakeEnvelope(const Json& list, std::vector<PushEvent>* events) {
  for (const Json& e : list) {
    const Json& target = JsonChild(e, "target");
    if (JsonText(e, "action") != "push" || !SaysManifest(JsonText(target, "mediaType"))) continue;
    Add({JsonText(target, "repository"), JsonText(target, "tag"), JsonText(target, "digest")}, events);
  }
}

void TakeHarbor(const Json& root, std::vector<PushEvent>* events) {
  if (JsonText(root, "type") != "PUSH_ARTIFACT") return;
  const Json& data = JsonChild(root, "event_data");
  const std::string repository = JsonText(JsonChild(data, "repository"), "repo_full_name");
  const Json& resources = JsonChild(data, "resources");
  if (!resources.is_array() || resources.size() > kMaxEvents) return;
  for (const Json& r : resources)
    Add({repository, JsonText(r, "tag"), JsonText(r, "digest")}, events);
}

}  // namespace

Result<std::vector<PushEvent>> ParseNotification(const std::string& body) {
  const Json root = ParseForeignJson(body);
  std::vector<PushEvent> events;
  const Json& list = JsonChild(root, "events");
  if (list.is_array()) {
    if (list.size() > kMaxEvents) return InvalidError("the notification has too many events");
    TakeEnvelope(list, &events);
  } else if (JsonChild(root, "event_data").is_object()) {
    TakeHarbor(root, &events);
  } else {
    return InvalidError(
        "this is neither a notification of docker-registry nor a webhook of Harbor");
  }
  return events;
}

}  // namespace fastoci
