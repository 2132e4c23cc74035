// SPDX-License-Identifier: Apache-2.0
// convertor: makes FastOCI images of OCI images; arguments and output only, the
// work is in helper/image/convert.h. The flags are those of overlaybd's tool of
// the same name.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <string>

#include "base/log.h"
#include "base/unique_fd.h"
#include "image/base_layer.h"
#include "image/convert.h"
#include "image/copy.h"

namespace fastoci {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(100);
constexpr int kBarWidth = 30;

struct Flags {
  std::string repository, input_tag, input_digest, overlaybd_tag, fastoci_tag, turbo_tag;
  std::string user, directory = "tmp_conv", fs_type = "ext4", platform;
  std::string root_ca, cert_dir, client_cert;
  std::string store, db_string, db_type;
  bool plain = false, verbose = false, oci = false, referrer = false, insecure = false;
  bool reserve = false, no_upload = false, dump_manifest = false;
  bool mkfs = true, native = false;
  std::string base_layer = kDefaultBaseLayer;
  uint64_t vsize = 64;
  unsigned concurrency = 4;
};

std::string Size(uint64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double v = static_cast<double>(bytes);
  int unit = 0;
  for (; v >= 1024 && unit < 4; unit++) v /= 1024;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.1f %s", v, units[unit]);
  return text;
}

// A bar on a terminal, a line per layer otherwise.
class Printer : public ConvertObserver {
 public:
  explicit Printer(bool verbose) : verbose_(verbose), terminal_(isatty(STDERR_FILENO) == 1) {}
  ~Printer() override { Clear(); }

  void OnImage(const OriginalImage& image) override {
    layers_ = image.layers;
    uint64_t total = 0;
    for (const Descriptor& d : layers_) total += d.bytes;
    std::fprintf(stderr, "%zu layer%s, %s\n", layers_.size(), layers_.size() == 1 ? "" : "s", Size(total).c_str());
  }
  void OnLayer(size_t number, uint64_t done) override {
    auto now = std::chrono::steady_clock::now();
    if (!terminal_ || now - last_ < kProgressInterval) return;
    last_ = now;
    uint64_t total = std::max<uint64_t>(layers_[number].bytes, 1);
    int filled = static_cast<int>(std::min<uint64_t>(done * kBarWidth / total, kBarWidth));
    std::fprintf(stderr, "\r\033[Klayer %zu/%zu [%-*s] %s of %s", number + 1, layers_.size(),
                 kBarWidth, std::string(static_cast<size_t>(filled), '#').c_str(),
                 Size(done).c_str(), Size(total).c_str());
    bar_ = true;
  }
  void OnKnownLayer(size_t number) override {
    Clear();
    std::fprintf(stderr, "layer %zu/%zu %s: known, not read again\n", number + 1, layers_.size(),
                 layers_[number].digest.substr(7, 12).c_str());
  }
  void OnLayerDone(size_t number, ImageFormat format, const ConvertedLayer& layer,
                   uint64_t nr_entries) override {
    Clear();
    std::fprintf(stderr, "layer %zu/%zu %s: %s -> %s%s, %llu entries\n", number + 1, layers_.size(),
                 layer.target.digest.substr(7, 12).c_str(), Size(layer.target.bytes).c_str(),
                 Size(layer.made.bytes).c_str(),
                 format == ImageFormat::kOverlaybd ? " of overlaybd" : "",
                 static_cast<unsigned long long>(nr_entries));
    if (verbose_) std::fprintf(stderr, "  %s\n", layer.made.digest.c_str());
  }
  void OnWarning(const std::string& text) override {
    Clear();
    std::fprintf(stderr, "convertor: warning: %s\n", text.c_str());
  }

 private:
  void Clear() {
    if (bar_) std::fputs("\r\033[K", stderr);
    bar_ = false;
  }
  bool verbose_, terminal_;
  bool bar_ = false;
  std::vector<Descriptor> layers_;
  std::chrono::steady_clock::time_point last_;
};

void Define(CLI::App* app, Flags* f) {
  app->set_version_flag("--version", std::string("convertor (FastOCI) ") + FASTOCI_VERSION);
  app->add_option("-r,--repository", f->repository,
                  "HOST/REPOSITORY of source and target, or oci:DIR for an OCI layout")
      ->required();
  app->add_option("-i,--input-tag", f->input_tag, "tag of the image to convert");
  app->add_option("-g,--input-digest", f->input_digest, "or its digest");
  app->add_option("--fastoci", f->fastoci_tag, "tag of the FastOCI image to make");
  app->add_option("--turboOCI", f->turbo_tag, "the same; overrides --fastoci");
  app->add_option("-o,--output-tag", f->overlaybd_tag, "tag of the native overlaybd image to make");
  app->add_flag("--overlaybd", f->native,
                "make a native overlaybd image, as -o does; with --fastoci both formats in one run");
  app->add_flag("--oci", f->oci, "write OCI manifests instead of docker's");
  app->add_flag("--referrer", f->referrer,
                "make the result a referrer of the original image (implies --oci)");
  app->add_option("--platform", f->platform,
                  "architecture to take from a multi-platform image (default: all)");
  app->add_option("-u,--username", f->user, "USER[:PASSWORD] (default: docker's config.json)");
  app->add_flag("--plain", f->plain, "plain HTTP instead of HTTPS");
  app->add_flag("--insecure", f->insecure, "accept any TLS certificate");
  app->add_option("--root-ca", f->root_ca, "CA certificates, PEM");
  app->add_option("--client-cert", f->client_cert, "CERT:KEY, PEM");
  app->add_option("--cert-dir", f->cert_dir, "directory with ca.crt, client.cert and client.key");
  app->add_option("-d,--dir", f->directory, "directory for what is kept (default: tmp_conv)");
  app->add_flag("--reserve", f->reserve, "keep the meta layers in the directory");
  app->add_flag("--no-upload", f->no_upload, "convert, but push nothing");
  app->add_flag("--dump-manifest", f->dump_manifest, "write config and manifest to the directory");
  app->add_option("--fstype", f->fs_type, "ext4 (default) or erofs")
      ->check(CLI::IsMember({"ext4", "erofs"}));
  app->add_option("--vsize", f->vsize, "virtual size in GB, 4 to 2047 (default: 64)");
  app->add_flag("--mkfs,!--no-mkfs", f->mkfs,
                "make the file system (default); --mkfs=false: build on the base layer");
  app->add_option("--base-layer", f->base_layer,
                  std::string("for --mkfs=false: an empty ext4 as an overlaybd layer (default: ") +
                      kDefaultBaseLayer + ")");
  app->add_option("--concurrency-limit", f->concurrency, "layers at a time (default: 4)")
      ->check(CLI::Range(1, 64));
  app->add_option("--store", f->store,
                  "directory that keeps what was learned of layers: known ones are not read again");
  app->add_option("--db-str", f->db_string, "overlaybd's database; here: --store")->group("");
  app->add_option("--db-type", f->db_type)->group("");
  app->add_flag("--verbose", f->verbose, "say more");
}

Error Usage(const std::string& message) { return InvalidError(message + " (see convertor --help)"); }

Result<TlsOptions> Tls(const Flags& f) {
  TlsOptions tls;
  tls.insecure = f.insecure;
  if (!f.cert_dir.empty()) {
    auto there = [](const std::string& p) { return access(p.c_str(), R_OK) == 0; };
    if (there(f.cert_dir + "/ca.crt")) tls.ca_file = f.cert_dir + "/ca.crt";
    if (there(f.cert_dir + "/client.cert")) {
      tls.client_cert = f.cert_dir + "/client.cert";
      tls.client_key = f.cert_dir + "/client.key";
    }
  }
  if (!f.root_ca.empty()) tls.ca_file = f.root_ca;
  if (!f.client_cert.empty()) {
    size_t colon = f.client_cert.find(':');
    if (colon == std::string::npos) return Usage("--client-cert wants CERT:KEY");
    tls.client_cert = f.client_cert.substr(0, colon);
    tls.client_key = f.client_cert.substr(colon + 1);
  }
  return tls;
}

Result<std::unique_ptr<ImageStore>> OpenStore(const Flags& f) {
  if (auto layout = ParseLayoutName(f.repository)) return OpenLayoutStore(layout->directory);
  FASTOCI_TRY(Credentials credentials, f.user.empty() ? Credentials::LoadDefault()
                                                      : Credentials::FromUserPassword(f.user));
  RegistryOptions options;
  options.plain_http = f.plain;
  FASTOCI_TRY(options.http.tls, Tls(f));
  return OpenRegistryStore(f.repository, std::move(options), std::move(credentials));
}

// The formats and tags that the flags ask for, as in the tool they come from:
// -o alone means overlaybd.
Result<ConvertOptions> Options(const Flags& f) {
  ConvertOptions options;
  options.source = f.input_digest.empty() ? f.input_tag : f.input_digest;
  if (auto layout = ParseLayoutName(f.repository); layout && options.source.empty())
    options.source = layout->tag;
  if (options.source.empty()) return Usage("which image? -i TAG or -g DIGEST");
  const std::string& turbo = f.turbo_tag.empty() ? f.fastoci_tag : f.turbo_tag;
  bool native = f.native || !f.overlaybd_tag.empty();
  if (!turbo.empty() || !native) options.turbo_tag = turbo;
  if (native) options.overlaybd_tag = f.overlaybd_tag;
  bool named = !turbo.empty() || !f.overlaybd_tag.empty();
  if (!named && !f.referrer && !f.no_upload)
    return Usage("under which tag? --fastoci TAG, or -o TAG for overlaybd");
  if (turbo == options.source || f.overlaybd_tag == options.source)
    return Usage("the result needs a tag of its own: the original image must stay");
  if (!turbo.empty() && turbo == f.overlaybd_tag) return Usage("two formats need two tags");
  if (!f.mkfs) {
    if (f.fs_type != "ext4") return Usage("--mkfs=false is for ext4: a base layer holds one");
    options.base_layer = f.base_layer;
  }
  if (!f.db_string.empty() || !f.db_type.empty())
    return Usage("layers that were converted before need no database: --store DIRECTORY keeps them");
  options.scan_dir = f.store;
  options.arch = f.platform.substr(f.platform.rfind('/') + 1);
  options.fs_type = f.fs_type == "erofs" ? FsType::kErofs : FsType::kExt4;
  options.fs_bytes = f.vsize << 30;
  options.oci = f.oci;
  options.referrer = f.referrer;
  options.store = !f.no_upload;
  options.concurrency = f.concurrency;
  return options;
}

// Where the result goes: another layout, if the tags name one.
Result<std::unique_ptr<ImageStore>> OpenTarget(ConvertOptions* options) {
  std::unique_ptr<ImageStore> store;
  std::string directory;
  for (std::optional<std::string>* tag : {&options->turbo_tag, &options->overlaybd_tag}) {
    if (!*tag) continue;
    auto layout = ParseLayoutName(**tag);
    if (!layout) {
      if (store) return Usage("all results go to the same layout");
      continue;
    }
    if (store && layout->directory != directory) return Usage("all results go to the same layout");
    if (layout->tag.empty()) return Usage("oci:DIR:TAG wants a tag");
    directory = layout->directory;
    *tag = layout->tag;
    if (store) continue;
    FASTOCI_TRY(store, OpenLayoutStore(directory, true));
  }
  return store;
}

Status Run(const Flags& f) {
  FASTOCI_TRY(ConvertOptions options, Options(f));
  options.scratch_dir = f.directory;
  if (f.reserve || f.dump_manifest) {
    options.dump = [&f](const std::string& name, ByteSpan data) {
      bool wanted = name.ends_with(".json") ? f.dump_manifest : f.reserve;
      return wanted ? WriteFileAtomic(f.directory + "/" + name, data) : OkStatus();
    };
  }
  FASTOCI_TRY(auto store, OpenStore(f));
  FASTOCI_TRY(auto target, OpenTarget(&options));
  if (options.dump || options.overlaybd_tag || target) FASTOCI_CHECK_OK(MakeDirs(f.directory));
  auto begin = std::chrono::steady_clock::now();
  std::vector<ConvertedImage> images;
  {
    Printer printer(f.verbose);
    if (target && options.store) {  // what is made must lie beside the original
      CopyOptions copy{.scratch_dir = f.directory, .warn = {}};
      std::string tag = options.source.starts_with("sha256:") ? "" : options.source;
      FASTOCI_TRY(options.source, CopyImage(store.get(), options.source, target.get(), tag, copy));
    }
    FASTOCI_TRY(images, ConvertImage(target ? target.get() : store.get(), options, &printer));
  }
  ::rmdir(f.directory.c_str());  // unless something is kept there
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (const ConvertedImage& image : images) {
    uint64_t from = 0, to = 0;
    for (const ConvertedLayer& layer : image.layers) {
      from += layer.target.bytes;
      to += layer.made.bytes;
    }
    std::fprintf(stderr, "%s -> %s (%.2f %%) in %.1f s\n", Size(from).c_str(), Size(to).c_str(),
                 100.0 * static_cast<double>(to) / static_cast<double>(std::max<uint64_t>(from, 1)),
                 seconds);
    const std::string& tag =
        image.format == ImageFormat::kTurboOci ? *options.turbo_tag : *options.overlaybd_tag;
    std::printf("%s%s%s@%s\n", f.repository.c_str(), tag.empty() ? "" : ":", tag.c_str(),
                image.manifest.digest.c_str());
  }
  return OkStatus();
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) {
  fastoci::SetLogProgram("convertor");
  CLI::App app("Makes FastOCI images of OCI images: the original stays as it is, and is read lazily.");
  fastoci::Flags flags;
  fastoci::Define(&app, &flags);
  CLI11_PARSE(app, argc, argv);
  fastoci::SetLogLevel(flags.verbose ? fastoci::LogLevel::kDebug : fastoci::LogLevel::kInfo);
  fastoci::Status status = fastoci::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "convertor: %s\n", status.error().message.c_str());
  return 1;
}
