// SPDX-License-Identifier: Apache-2.0
// convertor: makes FastOCI images of OCI images; arguments and output only, the
// work is in helper/image/convert.h. The flags are those of overlaybd's tool of
// the same name.
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <new>
#include <string>
#include <thread>

#include "base/format.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "base/utf8.h"
#include "image/base_layer.h"
#include "image/convert.h"
#include "image/copy.h"
#include "image/platform.h"
#include "registry/options.h"
#include "serve/service.h"

namespace fastoci {
namespace {

constexpr auto kProgressInterval = std::chrono::milliseconds(100);
constexpr int kBarWidth = 30;

struct Flags {
  std::string repository, input_tag, input_digest, overlaybd_tag, fastoci_tag, turbo_tag;
  std::string user, directory = "tmp_conv", fs_type = "ext4", platform;
  TlsFlags tls;
  std::vector<std::string> hosts_dirs;
  std::string store, db_string, db_type;
  std::string serve;
  bool all = false;
  bool password_stdin = false;
  bool plain = false, verbose = false, oci = false, referrer = false;
  bool reserve = false, no_upload = false, dump_manifest = false;
  bool mkfs = true, native = false;
  std::string base_layer = kDefaultBaseLayer;
  uint64_t vsize = 64;
  unsigned concurrency = 4;
};

// A bar on a terminal, a line per layer otherwise.
class Printer : public ConvertObserver {
 public:
  explicit Printer(bool verbose) : verbose_(verbose), terminal_(isatty(STDERR_FILENO) == 1) {}
  ~Printer() override { Clear(); }

  void OnImage(const OriginalImage& image) override {
    layers_ = image.layers;
    uint64_t total = 0;
    for (const Descriptor& d : layers_) total += d.bytes;
    std::fprintf(stderr, "%zu layer%s, %s\n", layers_.size(), layers_.size() == 1 ? "" : "s", HumanBytes(total).c_str());
  }
  void OnLayer(size_t number, uint64_t done) override {
    auto now = std::chrono::steady_clock::now();
    if (!terminal_ || now - last_ < kProgressInterval) return;
    last_ = now;
    uint64_t total = std::max<uint64_t>(layers_[number].bytes, 1);
    int filled = static_cast<int>(std::min<uint64_t>(done * kBarWidth / total, kBarWidth));
    std::fprintf(stderr, "\r\033[Klayer %zu/%zu [%-*s] %s of %s", number + 1, layers_.size(),
                 kBarWidth, std::string(static_cast<size_t>(filled), '#').c_str(),
                 HumanBytes(done).c_str(), HumanBytes(total).c_str());
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
                 layer.target.digest.substr(7, 12).c_str(), HumanBytes(layer.target.bytes).c_str(),
                 HumanBytes(layer.made.bytes).c_str(),
                 format == ImageFormat::kOverlaybd ? " of overlaybd" : "",
                 static_cast<unsigned long long>(nr_entries));
    if (verbose_) std::fprintf(stderr, "  %s\n", layer.made.digest.c_str());
  }
  void OnWarning(const std::string& text) override {
    Clear();
    std::fprintf(stderr, "convertor: warning: %s\n", Printable(text).c_str());
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
                  "HOST/REPOSITORY of the original and the result, or oci:DIR for an OCI layout");
  app->add_option("-i,--input-tag", f->input_tag, "tag of the image to convert");
  app->add_option("-g,--input-digest", f->input_digest, "or the digest of that image");
  app->add_option("--fastoci", f->fastoci_tag, "tag of the FastOCI image to make");
  app->add_option("--turboOCI", f->turbo_tag, "the same as --fastoci, and overrides it");
  app->add_option("-o,--output-tag", f->overlaybd_tag, "tag of the native overlaybd image to make");
  app->add_flag("--overlaybd", f->native,
                "make a native overlaybd image, as -o does; with --fastoci: both formats in one run");
  app->add_flag("--oci", f->oci, "write OCI manifests instead of docker's");
  app->add_flag("--referrer", f->referrer,
                "make the result a referrer of the original image (implies --oci)");
  app->add_option("--platform", f->platform,
                  "platform to convert, such as linux/arm64 or arm64 (default: all of the image)");
  app->add_option("-u,--username", f->user, "USER:PASSWORD for the registry (default: docker's, podman's and kubelet's)");
  app->add_flag("--password-stdin", f->password_stdin, "read the password of -u USER from standard input");
  app->add_flag("--plain", f->plain, "use HTTP instead of HTTPS");
  app->add_flag("--insecure", f->tls.insecure, "accept any TLS certificate");
  app->add_option("--root-ca", f->tls.root_ca, "PEM file with the CA certificates to trust");
  app->add_option("--client-cert", f->tls.client_cert, "CERT:KEY, PEM files with a client certificate and its key");
  app->add_option("--cert-dir", f->tls.cert_dir, "directory with ca.crt, client.cert and client.key");
  app->add_option("--hosts-dir", f->hosts_dirs,
                  "directory with hosts.toml directories, or \"none\" (default: containerd's and docker's)")
      ->allow_extra_args(false);
  app->add_option("-d,--dir", f->directory, "directory for temporary files and for what is kept (default: tmp_conv)");
  app->add_flag("--reserve", f->reserve, "keep the meta layers in the directory");
  app->add_flag("--no-upload", f->no_upload, "convert, but push nothing");
  app->add_flag("--dump-manifest", f->dump_manifest, "write config and manifest to the directory");
  app->add_option("--fstype", f->fs_type, "ext4 (default) or erofs")
      ->check(CLI::IsMember({"ext4", "erofs"}));
  app->add_option("--vsize", f->vsize, "size of the device in GB, 4 to 2047 (default: 64)");
  app->add_flag("--mkfs,!--no-mkfs", f->mkfs,
                "make the file system (default); with --mkfs=false build on a base layer");
  app->add_option("--base-layer", f->base_layer,
                  std::string("for --mkfs=false: an overlaybd layer that holds an empty ext4 (default: ") +
                      kDefaultBaseLayer + ")");
  app->add_option("--concurrency-limit", f->concurrency, "layers that are read at the same time (default: 4)")
      ->check(CLI::Range(1, 64));
  app->add_option("--store", f->store,
                  "directory that keeps what is learned of layers, so that they are not read again");
  app->add_option("--db-str", f->db_string, "not supported: use --store")->group("");
  app->add_option("--db-type", f->db_type)->group("");
  app->add_option("--serve", f->serve,
                  "run as a service that converts what is pushed to a registry, as this file says")
      ->type_name("FILE");
  app->add_flag("--all", f->all, "with --serve: convert once the images that are in the registry, and end");
  app->add_flag("--verbose", f->verbose, "say more");
}

Error Usage(const std::string& message) { return InvalidError(message + " (see convertor --help)"); }

Result<std::unique_ptr<ImageStore>> OpenStore(const Flags& f) {
  if (auto layout = ParseLayoutName(f.repository)) return OpenLayoutStore(layout->directory);
  FASTOCI_TRY(Reference ref, ParseReference(f.repository));
  FASTOCI_TRY(CredentialSourcePtr credentials, OpenCredentials(f.user, ref.host, ""));
  RegistryOptions options;
  options.plain_http = f.plain;
  FASTOCI_TRY(options.http.tls, ReadTlsFlags(f.tls));
  FASTOCI_TRY(options.hosts_dirs, ReadHostsDirs(f.hosts_dirs));
  return OpenRegistryStore(f.repository, std::move(options), std::move(credentials));
}

// The formats and tags that the flags ask for, as in the tool they come from:
// -o alone means overlaybd.
Result<ConvertOptions> Options(const Flags& f) {
  ConvertOptions options;
  options.source = f.input_digest.empty() ? f.input_tag : f.input_digest;
  if (auto layout = ParseLayoutName(f.repository); layout && options.source.empty())
    options.source = layout->tag;
  if (options.source.empty()) return Usage("no image is named: give -i TAG or -g DIGEST");
  const std::string& turbo = f.turbo_tag.empty() ? f.fastoci_tag : f.turbo_tag;
  bool native = f.native || !f.overlaybd_tag.empty();
  if (!turbo.empty() || !native) options.turbo_tag = turbo;
  if (native) options.overlaybd_tag = f.overlaybd_tag;
  bool named = !turbo.empty() || !f.overlaybd_tag.empty();
  if (!named && !f.referrer && !f.no_upload)
    return Usage("the result has no tag: give --fastoci TAG, or -o TAG for overlaybd");
  if (turbo == options.source || f.overlaybd_tag == options.source)
    return Usage("the result needs a tag of its own: it must not replace the original image");
  if (!turbo.empty() && turbo == f.overlaybd_tag) return Usage("--fastoci and -o need different tags");
  if (!f.mkfs) {
    if (f.fs_type != "ext4") return Usage("--mkfs=false needs --fstype ext4: a base layer is an ext4 file system");
    options.base_layer = f.base_layer;
  }
  if (!f.db_string.empty() || !f.db_type.empty())
    return Usage("--db-str and --db-type are not supported: --store DIRECTORY keeps what is known of layers");
  options.scan_dir = f.store;
  auto platform = ParsePlatform(f.platform);
  if (!platform.ok()) return platform.error().Wrap("--platform " + f.platform);
  options.platform = *platform;
  options.platform_demanded = !platform->any();
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
      if (store) return Usage("all results must go to the same OCI layout");
      continue;
    }
    if (store && layout->directory != directory) return Usage("all results must go to the same OCI layout");
    if (layout->tag.empty()) return Usage("the tag is missing: write oci:DIR:TAG");
    directory = layout->directory;
    *tag = layout->tag;
    if (store) continue;
    FASTOCI_TRY(store, OpenLayoutStore(directory, true));
  }
  return store;
}

// Serves until SIGTERM or SIGINT. Conversions that run then end with this process, and
// wait in the queue for the next one.
Status RunService(const Flags& f) {
  FASTOCI_TRY(std::string text, ReadFile(f.serve, 1 << 20));
  FASTOCI_TRY(ServeConfig config, ParseServeConfig(text, f.serve));
  char self[4096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof(self));
  if (n <= 0 || n == sizeof(self)) return ErrnoError("/proc/self/exe");
  FASTOCI_TRY(auto service,
              ConvertService::Open(std::move(config), std::string(self, static_cast<size_t>(n))));
  if (f.all) {
    FASTOCI_TRY(uint64_t failed, service->Sweep());
    if (failed > 0)
      return InvalidError(std::to_string(failed) + " images or repositories could not be read or converted; the lines above say why");
    return OkStatus();
  }
  sigset_t ends;
  ::sigemptyset(&ends);
  ::sigaddset(&ends, SIGTERM);
  ::sigaddset(&ends, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &ends, nullptr);
  std::thread([ends, &service] {
    int signal = 0;
    ::sigwait(&ends, &signal);
    service->Stop();
    ::_exit(0);
  }).detach();
  return service->Serve();
}

Status Run(const Flags& f) {
  if (!f.serve.empty()) return RunService(f);
  if (f.all) return Usage("--all needs --serve FILE");
  if (f.repository.empty()) return Usage("no repository is named: give -r HOST/REPOSITORY, or --serve FILE");
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
    std::fprintf(stderr, "%s -> %s (%.2f %%) in %.1f s\n", HumanBytes(from).c_str(), HumanBytes(to).c_str(),
                 100.0 * static_cast<double>(to) / static_cast<double>(std::max<uint64_t>(from, 1)),
                 seconds);
    const std::string& tag =
        image.format == ImageFormat::kTurboOci ? *options.turbo_tag : *options.overlaybd_tag;
    std::printf("%s%s%s@%s\n", f.repository.c_str(), tag.empty() ? "" : ":", tag.c_str(),
                image.manifest.digest.c_str());
  }
  return OkStatus();
}

// Of any thread that has used up its memory, which --serve limits.
void EndForMemory() {
  constexpr char kText[] = "convertor: out of memory\n";
  (void)!::write(STDERR_FILENO, kText, sizeof(kText) - 1);
  ::_exit(kConvertorNoMemory);
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) {
  std::set_new_handler(fastoci::EndForMemory);
  fastoci::SetLogProgram("convertor");
  CLI::App app("Makes FastOCI images from OCI images. The original image does not change.");
  fastoci::Flags flags;
  fastoci::Define(&app, &flags);
  CLI11_PARSE(app, argc, argv);
  fastoci::SetLogLevel(flags.verbose ? fastoci::LogLevel::kDebug : fastoci::LogLevel::kInfo);
  fastoci::Status status = fastoci::TakePassword(argc, argv, flags.password_stdin, &flags.user);
  if (status.ok()) status = fastoci::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "convertor: %s\n", fastoci::PrintableLines(status.error().message).c_str());
  return status.error().kind == fastoci::ErrorKind::kUnsupported ? fastoci::kConvertorUnsupported : 1;
}
