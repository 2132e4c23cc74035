// SPDX-License-Identifier: Apache-2.0
#include "registry/credential_source.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "registry/access.h"
#include "registry/duration.h"
#include "registry/kubelet_providers.h"
#include "registry/plugin.h"
#include "registry/yaml.h"

namespace fastoci {
namespace {

// Programs that run as nobody must be reachable for it: not below a directory
// that only we may enter.
class PluginTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fastoci-plugin.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    ::chmod(name, 0755);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string Script(const std::string& name, const std::string& body) {
    const std::string path = dir_ + "/" + name;
    {
      std::ofstream out(path + ".new");
      out << "#!/bin/sh\n" << body << "\n";
    }
    ::chmod((path + ".new").c_str(), 0755);
    std::filesystem::rename(path + ".new", path);
    return path;
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(dir_ + "/" + name + ".new") << text;
    std::filesystem::rename(dir_ + "/" + name + ".new", dir_ + "/" + name);
  }
  std::string Read(const std::string& name) {
    std::ifstream in(dir_ + "/" + name);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  Reference Ref(const std::string& text) { return *ParseReference(text); }
  std::string dir_;
};

TEST_F(PluginTest, AsksAndAnswers) {
  PluginCommand c;
  c.program = Script("p", "read x; echo \"got $x $1 $V\"; echo trouble >&2; exit 3");
  c.args = {"get"};
  c.env = {"V=value"};
  c.input = "question\n";
  auto r = RunPlugin(c);
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ(r->output.Reveal(), "got question get value\n");
  EXPECT_EQ(r->errors, "trouble ");
  EXPECT_EQ(r->exit_code, 3);
}

TEST_F(PluginTest, WhatHangsOrFloodsIsEnded) {
  PluginCommand c;
  c.timeout_ms = 300;
  // Neither a child that keeps stdout open nor a trap holds it up.
  c.program = Script("hang", "trap '' TERM; sleep 1000 & echo $! > " + dir_ + "/pid; wait");
  ::chmod(dir_.c_str(), 0777);
  auto r = RunPlugin(c);
  ASSERT_FALSE(r.ok());
  EXPECT_EQ(r.error().kind, ErrorKind::kUnavailable);
  EXPECT_NE(r.error().message.find("hang gave no answer"), std::string::npos);
  const pid_t left = std::atoi(Read("pid").c_str());
  for (int i = 0; i < 1000 && ::kill(left, 0) == 0; i++) {
    // A zombie that somebody else has to wait for is gone, too.
    std::ifstream stat("/proc/" + std::to_string(left) + "/stat");
    std::string text((std::istreambuf_iterator<char>(stat)), {});
    if (text.find(") Z") != std::string::npos) break;
    ::usleep(10000);
    ASSERT_LT(i, 999) << "its child runs on";
  }
  c.timeout_ms = 60000;
  c.max_output_bytes = 10000;
  c.program = Script("flood", "exec cat /dev/zero");
  EXPECT_EQ(RunPlugin(c).error().kind, ErrorKind::kInvalid);
  c.program = dir_ + "/absent";
  EXPECT_EQ(RunPlugin(c).error().kind, ErrorKind::kNotFound);
}

TEST_F(PluginTest, AnInputThatNobodyReadsIsNoError) {
  PluginCommand c;
  c.program = Script("deaf", "exec 0<&-; echo done");
  c.input = std::string(1 << 20, 'x');
  auto r = RunPlugin(c);
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ(r->output.Reveal(), "done\n");
}

TEST_F(PluginTest, RootRunsItAsNobody) {
  if (::geteuid() != 0) GTEST_SKIP() << "not root";
  Write("secret", "root's");
  ::chmod((dir_ + "/secret").c_str(), 0600);
  PluginCommand c;
  c.program = Script("who", "id -u; cat " + dir_ + "/secret; grep NoNewPrivs /proc/self/status");
  auto r = RunPlugin(c);
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->output.Reveal(), "65534\nNoNewPrivs:\t1\n");
  c.may_read_files = true;
  r = RunPlugin(c);
  EXPECT_EQ(r->output.Reveal(), "65534\nroot'sNoNewPrivs:\t1\n");
  EXPECT_EQ(::prctl(PR_GET_DUMPABLE), 1) << "we have not changed";
}

// A helper that counts how often it is asked.
std::string Helper(const std::string& dir, const std::string& answer) {
  return "echo \"$1 $(cat)\" >> " + dir + "/asked; " + answer;
}

class DockerConfigTest : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    std::ofstream(dir_ + "/asked").close();
    ::chmod((dir_ + "/asked").c_str(), 0666);
    options_.path = dir_ + "/config.json";
    options_.helper_dir = dir_;
    source_ = DockerConfigSource(options_);
  }
  std::string Find(const std::string& ref, bool fresh = false) {
    auto found = source_->Find(Ref(ref), fresh);
    if (!found.ok()) return "error: " + found.error().message;
    if (!*found) return "none";
    const Credential& c = (*found)->credential;
    return c.username + ":" + c.password.Reveal() + c.identity_token.Reveal();
  }
  DockerConfigOptions options_;
  CredentialSourcePtr source_;
};

TEST_F(DockerConfigTest, HelpersAuthsAndTheStoreEachForItsRegistries) {
  Script("docker-credential-one", Helper(dir_, R"(echo '{"Username":"one","Secret":"1"}')"));
  Script("docker-credential-tok", Helper(dir_, R"(echo '{"Username":"<token>","Secret":"t"}')"));
  Script("docker-credential-all", Helper(dir_, R"(echo 'credentials not found in native keychain'; exit 1)"));
  Write("config.json", R"({"auths":{"plain.example":{"auth":"dTpw"},"one.example":{},
    "idt.example":{"username":"","identitytoken":"refresh"},
    "deep.example":{"username":"d","password":"1"},"deep.example/a/b":{"username":"d","password":"2"}},
    "credHelpers":{"one.example":"one","tok.example:5000":"tok"},"credsStore":"all"})");
  EXPECT_EQ(Find("one.example/x"), "one:1");
  EXPECT_EQ(Find("ONE.example:443/y"), "one:1");
  EXPECT_EQ(Find("tok.example:5000/x"), "<token>:t");
  EXPECT_EQ(Find("plain.example/x"), "u:p");
  EXPECT_EQ(Find("idt.example/x"), ":refresh");
  EXPECT_EQ(Find("deep.example/a"), "d:1");
  EXPECT_EQ(Find("deep.example/a/b/c"), "d:2");
  EXPECT_EQ(Find("deep.example/a/bc"), "d:1");
  EXPECT_EQ(Find("other.example/x"), "none");
  EXPECT_EQ(Find("alpine"), "none");
  // Each was asked once, for its registry only, and the store as docker asks it.
  EXPECT_EQ(Read("asked"), "get one.example\nget tok.example:5000\nget other.example\n"
                           "get https://index.docker.io/v1/\n");
}

TEST_F(DockerConfigTest, WhatWasRefusedIsAskedForAgain) {
  Script("docker-credential-one", Helper(dir_, R"(echo '{"Username":"u","Secret":"old"}')"));
  Write("config.json", R"({"credHelpers":{"a.example":"one"}})");
  EXPECT_EQ(Find("a.example/x"), "u:old");
  Script("docker-credential-one", Helper(dir_, R"(echo '{"Username":"u","Secret":"new"}')"));
  EXPECT_EQ(Find("a.example/x"), "u:old");
  EXPECT_EQ(Find("a.example/x", true), "u:new");
  EXPECT_EQ(Find("a.example/x"), "u:new");
  EXPECT_EQ(Read("asked"), "get a.example\nget a.example\n");
}

TEST_F(DockerConfigTest, AChangedFileCountsAtOnce) {
  EXPECT_EQ(Find("a.example/x"), "none");
  Write("config.json", R"({"auths":{"a.example":{"username":"u","password":"old"}}})");
  EXPECT_EQ(Find("a.example/x"), "u:old");
  Write("config.json", R"({"auths":{"a.example":{"username":"u","password":"new"}}})");
  EXPECT_EQ(Find("a.example/x"), "u:new");
  Write("config.json", "{");
  EXPECT_TRUE(Find("a.example/x").starts_with("error: "));
  EXPECT_TRUE(Find("a.example/x").starts_with("error: "));
  std::filesystem::remove(dir_ + "/config.json");
  EXPECT_EQ(Find("a.example/x"), "none");
}

TEST_F(DockerConfigTest, HelpersThatFailSaySo) {
  options_.helper_timeout_ms = 200;
  source_ = DockerConfigSource(options_);
  Write("config.json", R"({"credHelpers":{"a.example":"bad","b.example":"gone","c.example":"slow",
    "d.example":"mute"}})");
  Script("docker-credential-bad", "echo 'no session' >&2; exit 7");
  Script("docker-credential-slow", "exec sleep 1000");
  Script("docker-credential-mute", "echo '{}'");
  EXPECT_NE(Find("a.example/x").find("ended with 7: no session"), std::string::npos);
  EXPECT_NE(Find("b.example/x").find("docker-credential-gone"), std::string::npos);
  EXPECT_NE(Find("c.example/x").find("gave no answer in 200 ms"), std::string::npos);
  EXPECT_NE(Find("d.example/x").find("no JSON with Username and Secret"), std::string::npos);
  EXPECT_EQ(Find("e.example/x"), "none");
}

TEST(CredentialSources, GiveNothingForAnotherRegistry) {
  Credential c;
  c.username = "u";
  auto one = HostSource("Registry.Example:443", c, "given");
  EXPECT_TRUE(one->Find(*ParseReference("registry.example/x"), false)->has_value());
  EXPECT_FALSE(one->Find(*ParseReference("registry.example:5000/x"), false)->has_value());
  EXPECT_FALSE(one->Find(*ParseReference("other.example/x"), false)->has_value());
  EXPECT_FALSE(one->Find(*ParseReference("registry.example.evil/x"), false)->has_value());
  auto both = FirstOf({one, FixedSource(*Credentials::Parse(R"({"auths":{"other.example":{"username":"v","password":"p"}}})"), "file")});
  EXPECT_EQ((*both->Find(*ParseReference("registry.example/x"), false))->way, "given");
  EXPECT_EQ((*both->Find(*ParseReference("other.example/x"), false))->way, "file");
}

TEST(DefaultFiles, AreDockersAndPodmans) {
  ::unsetenv("REGISTRY_AUTH_FILE");
  ::unsetenv("DOCKER_CONFIG");
  ::unsetenv("XDG_CONFIG_HOME");
  ::setenv("HOME", "/home/u", 1);
  ::setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
  EXPECT_EQ(DefaultCredentialFiles(),
            (std::vector<std::string>{"/home/u/.docker/config.json", "/run/user/7/containers/auth.json",
                                      "/home/u/.config/containers/auth.json"}));
  ::setenv("DOCKER_CONFIG", "/d", 1);
  EXPECT_EQ(DefaultCredentialFiles()[0], "/d/config.json");
  ::setenv("REGISTRY_AUTH_FILE", "/r.json", 1);
  EXPECT_EQ(DefaultCredentialFiles(), (std::vector<std::string>{"/r.json"}));
  ::unsetenv("REGISTRY_AUTH_FILE");
  ::unsetenv("DOCKER_CONFIG");
}

constexpr char kProviders[] = R"(
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: ["*.dkr.ecr.*.amazonaws.com", "public.ecr.aws"]
    defaultCacheDuration: "12h"
    args: [get-credentials]
    env:
      - name: AWS_PROFILE
        value: node
  - name: pods
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages:
      - "pods.example"
    defaultCacheDuration: 0s
    tokenAttributes:
      serviceAccountTokenAudience: x
      requireServiceAccount: true
)";

TEST(KubeletConfig, IsReadAsKubeletHasIt) {
  auto p = ParseProviderConfig(kProviders);
  ASSERT_TRUE(p.ok()) << p.error().message;
  ASSERT_EQ(p->size(), 2U);
  EXPECT_EQ((*p)[0].name, "ecr");
  EXPECT_EQ((*p)[0].default_cache_ms, 12 * 3600 * 1000);
  EXPECT_EQ((*p)[0].args, (std::vector<std::string>{"get-credentials"}));
  EXPECT_EQ((*p)[0].env, (std::vector<std::string>{"AWS_PROFILE=node"}));
  EXPECT_FALSE((*p)[0].needs_service_account);
  EXPECT_TRUE((*p)[1].needs_service_account);
  // JSON, as on EKS.
  EXPECT_TRUE(ParseProviderConfig(
                  R"({"kind":"CredentialProviderConfig","providers":[{"name":"e","matchImages":["a"],
    "apiVersion":"credentialprovider.kubelet.k8s.io/v1alpha1","defaultCacheDuration":"0"}]})")
                  .ok());
  for (const char* bad : {"", "a: [", "kind: Other", "kind: CredentialProviderConfig\nproviders: 3",
                          "kind: CredentialProviderConfig\nproviders: [{name: ../x}]",
                          "kind: CredentialProviderConfig\nproviders: [{name: x}]",
                          "a: &x 1\nb: *x", "a: 1\na: 2", "--- 1\n--- 2"})
    EXPECT_FALSE(ParseProviderConfig(bad).ok()) << bad;
}

TEST(KubeletConfig, MatchesImagesAsKubeletDoes) {
  struct {
    const char *pattern, *image;
    bool matches;
  } cases[] = {
      {"*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu-1.amazonaws.com/a", true},
      {"*.dkr.ecr.*.amazonaws.com", "x.1.dkr.ecr.eu-1.amazonaws.com/a", false},
      {"*.io", "k8s.io/a", true},
      {"*.io", "a.k8s.io/a", false},
      {"app.*", "app.k8s/a", true},
      {"app*.k8s.io", "app5.k8s.io/a", true},
      {"gcr.io", "gcr.io/p/a", true},
      {"gcr.io/p", "gcr.io/p/a", true},
      {"gcr.io/p", "gcr.io/pp/a", false},
      {"r.io:8080/path", "r.io:8080/path/a", true},
      {"r.io:8080", "r.io/a", false},
      {"r.io", "r.io:8080/a", false},
      {"https://r.io/", "r.io/a", true},
      {"*", "r.io/a", false},
  };
  for (const auto& c : cases)
    EXPECT_EQ(MatchesImage(c.pattern, c.image), c.matches) << c.pattern << " " << c.image;
}

class KubeletTest : public PluginTest {
 protected:
  void SetUp() override {
    PluginTest::SetUp();
    std::ofstream(dir_ + "/asked").close();
    ::chmod((dir_ + "/asked").c_str(), 0666);
    source_ = KubeletSource({dir_ + "/providers.yaml", dir_});
  }
  void Answer(const std::string& key, const std::string& duration) {
    Script("ecr", Helper(dir_, R"(echo '{"kind":"CredentialProviderResponse",
      "apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":")" + key +
        R"(",)" + duration + R"("auth":{"*.dkr.ecr.*.amazonaws.com":{"username":"AWS","password":"p"},
        "public.ecr.aws/x":{"username":"AWS","password":"x"}}}')"));
  }
  int Asked() {
    const std::string text = Read("asked");
    return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
  }
  std::string Find(const std::string& ref) {
    auto found = source_->Find(Ref(ref), false);
    if (!found.ok()) return "error: " + found.error().message;
    return *found ? (*found)->credential.password.Reveal() : "none";
  }
  CredentialSourcePtr source_;
};

TEST_F(KubeletTest, AsksTheProviderAndKeepsTheAnswerAsLongAsItSays) {
  EXPECT_EQ(Find("1.dkr.ecr.eu-1.amazonaws.com/a"), "none");  // no configuration
  Write("providers.yaml", kProviders);
  Answer("Registry", "");
  EXPECT_EQ(Find("1.dkr.ecr.eu-1.amazonaws.com/a"), "p");
  EXPECT_EQ(Find("1.dkr.ecr.eu-1.amazonaws.com/b"), "p");
  EXPECT_EQ(Asked(), 1);
  EXPECT_EQ(Find("2.dkr.ecr.eu-1.amazonaws.com/b"), "p");
  EXPECT_EQ(Asked(), 2);
  EXPECT_EQ(Find("public.ecr.aws/x/y"), "x");
  EXPECT_EQ(Find("public.ecr.aws/z"), "none");  // asked for, but not given
  EXPECT_EQ(Asked(), 3);
  EXPECT_EQ(Find("other.example/z"), "none");
  EXPECT_EQ(Asked(), 3);
  EXPECT_NE(Read("asked").find(R"("image":"1.dkr.ecr.eu-1.amazonaws.com/a")"), std::string::npos);
  EXPECT_TRUE(Read("asked").starts_with("get-credentials "));
}

TEST_F(KubeletTest, EachKindOfCacheKey) {
  Write("providers.yaml", kProviders);
  Answer("Image", "");
  Find("1.dkr.ecr.eu-1.amazonaws.com/a");
  Find("1.dkr.ecr.eu-1.amazonaws.com/a");
  EXPECT_EQ(Asked(), 1);
  Find("1.dkr.ecr.eu-1.amazonaws.com/b");
  EXPECT_EQ(Asked(), 2);
  Answer("Image", R"("cacheDuration":"0s",)");
  Find("3.dkr.ecr.eu-1.amazonaws.com/a");
  Find("3.dkr.ecr.eu-1.amazonaws.com/a");
  EXPECT_EQ(Asked(), 4);
  Answer("Global", "");
  Find("4.dkr.ecr.eu-1.amazonaws.com/a");
  Find("5.dkr.ecr.eu-1.amazonaws.com/a");
  EXPECT_EQ(Asked(), 5);
}

TEST_F(KubeletTest, WhatCannotBeAskedIsNamed) {
  Write("providers.yaml", kProviders);
  EXPECT_NE(Find("pods.example/a").find("requireServiceAccount"), std::string::npos);
  EXPECT_NE(Find("public.ecr.aws/x").find("credential provider ecr"), std::string::npos);
  Script("ecr", "echo '{\"kind\":\"Other\"}'");
  EXPECT_NE(Find("public.ecr.aws/x").find("CredentialProviderResponse"), std::string::npos);
}

TEST(Duration, AsGoWritesIt) {
  EXPECT_EQ(*ParseDurationMs("1h2m3s"), 3723000);
  EXPECT_EQ(*ParseDurationMs("1.5s"), 1500);
  EXPECT_EQ(*ParseDurationMs("10ms"), 10);
  EXPECT_EQ(*ParseDurationMs("0"), 0);
  for (const char* bad : {"", "1", "s", "1x", "-1s", "1s ", "1e9s"})
    EXPECT_FALSE(ParseDurationMs(bad).ok()) << bad;
}

TEST(AccessJson, RoundTripsAndRefusesWhatItDoesNotKnow) {
  Access a;
  EXPECT_TRUE(a.empty());
  a.host = "r.example:5000";
  a.plain_http = a.insecure = true;
  a.ca_pem = "CA\n";
  a.client_cert_pem = "C";
  a.client_key_pem = Secret("K");
  a.credential.username = "u";
  a.credential.password = Secret("p\"\n");
  auto again = AccessFromJson(AccessToJson(a).Reveal());
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(*again, a);
  EXPECT_FALSE(again->empty());
  for (const char* bad :
       {"", "{}", "[]", R"({"version":1})", R"({"version":2,"host":"a.b"})",
        R"({"version":1,"host":"a/b"})", R"({"version":1,"host":"a.b","insecure":1})",
        R"({"version":1,"host":"a.b","new":1})", R"({"version":1,"host":"a.b","client_cert_pem":"x"})"})
    EXPECT_FALSE(AccessFromJson(bad).ok()) << bad;
}

TEST(AccessJson, AFileOfCredentialsHasAnAbsolutePathThatFits) {
  Access a;
  a.host = "r.example";
  for (const auto& [path, good] : std::vector<std::pair<std::string, bool>>{
           {"/etc/login.json", true},
           {"login.json", false},
           {"/" + std::string(kMaxCredentialsPath - 1, 'a'), true},
           {"/" + std::string(kMaxCredentialsPath, 'a'), false},
           {std::string("/a\0b", 4), false}}) {
    a.credentials_file = path;
    EXPECT_FALSE(a.empty());
    auto again = AccessFromJson(AccessToJson(a).Reveal());
    EXPECT_EQ(again.ok(), good) << path;
    EXPECT_EQ(good && *again == a, good);
  }
}

}  // namespace
}  // namespace fastoci
