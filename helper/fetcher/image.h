// SPDX-License-Identifier: Apache-2.0
// The JSON part of an assembled meta image: where each blob may be had.
//   {"version":1,"image":"<ref>","manifest_digest":"sha256:..","blobs":[
//     {"digest":"sha256:..","size":N,"media_type":"..","sources":[
//       {"type":"registry","scheme":"http","host":"h:5000","repository":"demo"},
//       {"type":"file","path":"/..."}]}]}
// Hostile until parsed. Sources of a type that is not known here are left out.
#ifndef FASTOCI_FETCHER_IMAGE_H_
#define FASTOCI_FETCHER_IMAGE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "fetcher/protocol.h"
#include "registry/reference.h"

namespace fastoci {

inline constexpr uint64_t kMaxImageJsonBytes = 4 << 20;
inline constexpr size_t kMaxSources = 16;  // per blob

struct BlobLocation {
  enum class Type { kRegistry, kFile };
  Type type = Type::kFile;
  std::string scheme;    // kRegistry: http or https
  Reference repository;  // kRegistry: host and repository
  std::string path;      // kFile: absolute
  std::string ToString() const;
};

struct FetchBlob {
  std::string digest;
  uint64_t bytes = 0;
  std::vector<BlobLocation> sources;
};

struct FetchImage {
  std::vector<FetchBlob> blobs;
};

// Which schemes are allowed for whom is PlacesOf()'s.
Result<FetchImage> ParseFetchImage(const std::string& json);

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_IMAGE_H_
