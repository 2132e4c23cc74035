// SPDX-License-Identifier: Apache-2.0
// What MissService tells of itself: names of images, and what happens in bulk.
#include <algorithm>

#include "base/event.h"
#include "broker/miss_service.h"
#include "kernel/disk_use.h"

namespace fastoci {
namespace {

// After its table was read a device has no name yet; one that never gets any was
// not made by us.
constexpr auto kNamelessFor = std::chrono::seconds(3);

}  // namespace

EventFields MissService::FieldsOf(const char* kind, const Image& image) {
  EventFields f;
  f.kind = kind;
  f.image_id = HexEncode(image.info.image_id);
  f.image = image.name.empty() ? f.image_id.substr(0, 12) : image.name;
  return f;
}

EventFields MissService::FieldsOf(const char* kind, uint32_t image, const BlobInfo& blob) {
  std::lock_guard lock(mutex_);
  auto it = images_.find(image);
  EventFields f = it == images_.end() ? EventFields{} : FieldsOf(kind, it->second);
  f.kind = kind;
  f.blob = DigestString(blob.blob_digest);
  return f;
}

// Finds names for images that are new, and tells of them.
void MissService::AnnounceImages() {
  {
    std::lock_guard lock(mutex_);
    if (std::all_of(images_.begin(), images_.end(),
                    [](const auto& i) { return i.second.announced; }))
      return;
  }
  const auto disks = FastociDisks();
  std::vector<Image> found;
  {
    std::lock_guard lock(mutex_);
    for (auto& [no, image] : images_) {
      if (image.announced) continue;
      for (const DiskUse& disk : disks)
        if (std::count(disk.below.begin(), disk.below.end(), image.info.meta_dev))
          image.name = disk.name;
      if (image.name.empty() && image.error.empty() && Clock::now() - image.since < kNamelessFor)
        continue;
      image.announced = true;
      found.push_back(image);
    }
  }
  for (const Image& image : found) {
    if (image.meta)
      LogEvent(LogLevel::kInfo, FieldsOf("attach", image), "image %u (%.12s) %s: %zu blobs",
               image.info.image, HexEncode(image.info.image_id).c_str(), image.name.c_str(),
               image.meta->blobs.size());
    else
      LogEvent(LogLevel::kError, FieldsOf("attach", image), "image %u (%.12s) %s: %s",
               image.info.image, HexEncode(image.info.image_id).c_str(), image.name.c_str(),
               image.error.c_str());
  }
}

// Evictions are many: told as a sum.
void MissService::TellEvictions() {
  const uint64_t now = counters_.evictions;
  const uint64_t before = std::exchange(told_evictions_, now);
  if (now == before) return;
  EventFields f;
  f.kind = "evict";
  f.count = now - before;
  LogEvent(LogLevel::kDebug, f, "%llu chunks were evicted",
           static_cast<unsigned long long>(f.count));
}

}  // namespace fastoci
