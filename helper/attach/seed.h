// SPDX-License-Identifier: Apache-2.0
// Seeds (docs/seeds.md): what a node has of some images, as a directory that another node can take
// it from without a registry. A seed is an OCI layout. It has each image's FastOCI manifest, config
// and meta layers, as the registry has them, and the data of its data spaces that was cached.
//
// A seed is untrusted. An import first checks all of it: each blob against the digest that names it,
// and each 64 KiB of data against the digests of the meta image, which is assembled anew. Only then
// it changes anything on the node. An image that cannot be imported to the end is not left behind.
#ifndef FASTOCI_ATTACH_SEED_H_
#define FASTOCI_ATTACH_SEED_H_

#include <cstdint>
#include <string>
#include <vector>

#include "attach/attach.h"

namespace fastoci {

struct SeedImage {
  std::string name;  // on this node
  std::string ref, manifest_digest;
  uint64_t seeded_bytes = 0;  // of its data spaces, in the seed
  uint64_t data_bytes = 0;    // all of them
  uint64_t nr_chunks = 0;     // import: of this node's cache, that have their data now
};

struct SeedExportRequest {
  std::vector<std::string> images;  // names, references, devices or mount points; none: all that are attached
  std::string directory;            // of the seed, which appears complete or not at all
  bool all = false;                 // fetch first what is not cached
  RegistryAccess access;            // if nothing is given: what attach was given
};
Result<std::vector<SeedImage>> ExportSeed(const AttachPaths& paths, const SeedExportRequest& request,
                                          Progress* progress);

struct SeedImportRequest {
  std::string directory;
  std::vector<std::string> images;   // references; none: all that are in the seed
  std::vector<std::string> digests;  // the only manifests that are let in; none: any
  bool check_only = false;           // change nothing; needs neither helper nor root
  bool pin = false;                  // never evict their data
  RegistryAccess access;             // for what is missing in the seed, as for an attach
};
// kMismatch or kInvalid: the seed is damaged, or not what it says. EKEYREJECTED in err: the node's
// policy demands a signature.
Result<std::vector<SeedImage>> ImportSeed(const AttachPaths& paths, const SeedImportRequest& request,
                                          Progress* progress);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_SEED_H_
