// SPDX-License-Identifier: Apache-2.0
#include "attach/start_artifact.h"

#include <ctime>
#include <optional>

#include "base/digest.h"
#include "base/format.h"

namespace fastoci {
namespace {

Result<StartTrace> FetchOne(ImageStore* store, const std::string& artifact, const std::string& image_digest,
                            const std::string& workload) {
  FASTOCI_TRY(Manifest manifest, store->GetManifest(artifact));
  FASTOCI_TRY(Descriptor d, ParseStartManifest(manifest.body, image_digest, workload));
  FASTOCI_TRY(std::string text, store->ReadBlob(d.digest, kMaxStartBytes));
  return StartFromText(text);
}

}  // namespace

Result<std::string> PushStart(ImageStore* store, const Descriptor& image, const std::string& workload,
                              const StartTrace& trace) {
  const std::string text = StartToText(trace), config = kEmptyConfig;
  const Descriptor blob = {kStartType, DigestString(Sha256::Of(AsBytes(text))), text.size()};
  FASTOCI_CHECK_OK(store->PutBlob(blob.digest, AsBytes(text)));
  FASTOCI_CHECK_OK(store->PutBlob(DigestString(Sha256::Of(AsBytes(config))), AsBytes(config)));
  return store->PutManifest("", ManifestMediaType(true), StartManifest(image, blob, workload, UtcTime(std::time(nullptr))));
}

Result<StartTrace> FetchStart(ImageStore* store, const std::string& image_digest, const std::string& workload) {
  FASTOCI_TRY(std::string referrers, store->Referrers(image_digest, kStartArtifact));
  FASTOCI_TRY(auto artifacts, StartArtifacts(referrers, workload));
  std::optional<Error> failure;
  for (const std::string& artifact : artifacts) {
    auto trace = FetchOne(store, artifact, image_digest, workload);
    if (trace.ok()) return trace;
    // An entry of the list that does not say its workload may be another one's.
    if (!failure && trace.error().kind != ErrorKind::kMismatch) failure = trace.error().Wrap("start trace " + artifact);
  }
  if (failure) return *failure;
  return NotFoundError("there is no start trace of " + image_digest + " for the workload " + workload);
}

}  // namespace fastoci
