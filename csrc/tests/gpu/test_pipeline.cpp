// The pipeline on the fake driver: right bits from many threads, two batches in flight from one, and everything that
// may go wrong; then the scheduler on top of it, with the same forest on the CPU as the fallback.
#include "gpu/pipeline.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.hpp"
#include "engine/scorer.h"
#include "tests/gpu/fake/fake_driver.hpp"
#include "gpu/forest_body.hpp"
#include "tests/gpu/random_forests.hpp"
#include "tests/check.hpp"

using namespace engine;
using namespace engine::gpu;
using namespace gpu_tests;

extern "C" void register_kernels();

// Asked by LeakSanitizer. What a lost device held can never be given back, and its streams keep their threads; the fake
// driver's count of live objects tells of leaks everywhere else.
extern "C" __attribute__((visibility("default"))) int __lsan_is_turned_off();
extern "C" int __lsan_is_turned_off() { return 1; }

namespace {

constexpr int64_t LONG_NS = 20'000'000'000;
constexpr char IMAGE[] = "fake";  // the fake driver's own module

const char* driver_path() {
    const char* given = std::getenv("ENGINE_FAKE_DRIVER");
    return given != nullptr ? given : "libcuda.so.1";
}

// A forest on the device, in a pipeline, and on the CPU.
struct Served {
    Arrays arrays;
    std::unique_ptr<forest::Forest> cpu;
    std::shared_ptr<Device> device;
    Module module = nullptr;
    std::unique_ptr<ForestBody> body;
    std::unique_ptr<Pipeline> pipeline;
    std::string error;
    uint32_t features = 8;

    explicit Served(uint32_t lanes = 2, uint32_t rows_max = 16, size_t mapped_bytes_max = 64 * 1024) {
        arrays = random_arrays(3, 48, 10, features, 1, 40, 3);
        arrays.base = {0.75};
        cpu = forest::Forest::load(arrays.spec());
        open(lanes, rows_max, mapped_bytes_max);
    }
    ~Served() {
        pipeline.reset();
        body.reset();
        if (module != nullptr && !device->lost()) device->driver().cuModuleUnload(module);
    }

    void open(uint32_t lanes, uint32_t rows_max, size_t mapped_bytes_max) {
        device = Device::open(0, driver_path(), &error);
        if (!device) return;
        const Driver& driver = device->driver();
        if (const Result result = driver.cuModuleLoadData(&module, IMAGE))
            return void(failed(driver, "module", result, &error));
        body = ForestBody::load(device, module, *cpu, ForestBody::Trees::codes, &error);
        if (!body) return;
        body->threads = 64;  // this processor runs every one of them
        Function publish = nullptr;
        if (const Result result = driver.cuModuleGetFunction(&publish, module, "publish"))
            return void(failed(driver, "publish", result, &error));
        PipelineOptions options = body->options(rows_max);
        options.lanes = lanes;
        options.mapped_bytes_max = mapped_bytes_max;
        options.close_patience_ns = LONG_NS;  // kernels are slow here, and slower under a sanitizer
        pipeline = Pipeline::make(device, options, body->body(), publish, &error);
    }

    std::vector<double> expected(const std::vector<float>& rows) const {
        std::vector<double> out(rows.size() / features);
        cpu->score_by("reference", rows.data(), out.size(), features, out.data());
        return out;
    }
    int score(const std::vector<float>& rows, std::vector<double>& out, int64_t within_ns = LONG_NS) {
        return pipeline->score_until(rows.data(), rows.size() / features, features, out.data(), now_ns() + within_ns);
    }
};

bool same(const std::vector<double>& a, const std::vector<double>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

void no_complaint() {
    const char* complaint = fake_driver_complaint();
    if (complaint != nullptr) std::fprintf(stderr, "the fake driver complains: %s\n", complaint);
    CHECK(complaint == nullptr);
}

}  // namespace

TEST(many_threads_get_the_bits_of_the_cpu) {
    for (const size_t mapped : {size_t{64 * 1024}, size_t{0}, size_t{300}}) {  // mapped, copied, some buckets of each
        fake_driver_reset();
        Served served(2, 16, mapped);
        CHECK(served.pipeline != nullptr);
        if (!served.pipeline) return void(std::fprintf(stderr, "%s\n", served.error.c_str()));
        std::atomic<int> wrong{0}, answered{0};
        std::vector<std::thread> threads;
        for (uint32_t t = 0; t < 3; ++t)
            threads.emplace_back([&, t] {
                Draw draw{t + 1};
                for (uint32_t i = 0; i < 20; ++i) {
                    const auto rows = random_rows(t * 1000 + i, 1 + draw(16), served.features);
                    std::vector<double> out(rows.size() / served.features, -5.0);
                    if (served.score(rows, out) != ENGINE_SCORE_OK || !same(out, served.expected(rows))) ++wrong;
                    ++answered;
                }
            });
        for (auto& thread : threads) thread.join();
        CHECK(wrong == 0);
        CHECK(answered == 60);
        CHECK(fake_driver_get("exec_overlaps") == 0);
        CHECK(fake_driver_get("pageable_copies") == 0);
        no_complaint();
    }
}

TEST(rows_may_lie_apart) {
    fake_driver_reset();
    Served served;
    const auto rows = random_rows(5, 6, served.features);
    std::vector<float> apart(6 * (served.features + 3), 9.0f);
    for (size_t r = 0; r < 6; ++r)
        std::copy_n(&rows[r * served.features], served.features, &apart[r * (served.features + 3)]);
    std::vector<double> out(6);
    CHECK(served.pipeline->score_until(apart.data(), 6, served.features + 3, out.data(), now_ns() + LONG_NS) ==
          ENGINE_SCORE_OK);
    CHECK(same(out, served.expected(rows)));
}

TEST(one_thread_keeps_two_batches_in_flight) {
    fake_driver_reset();
    Served served;
    struct Flight {
        uint32_t ticket;
        std::vector<float> rows;
    };
    std::vector<Flight> flying;
    Draw draw{9};
    uint32_t begun = 0;
    int answered = 0, wrong = 0;
    size_t most = 0;
    while (answered < 60) {
        if (begun < 60) {
            Flight flight{0, random_rows(begun, 1 + draw(16), served.features)};
            const int status = served.pipeline->begin(flight.rows.data(), flight.rows.size() / served.features,
                                                      served.features, &flight.ticket);
            if (status == ENGINE_SCORE_OK) flying.push_back(std::move(flight)), ++begun;
            else CHECK(status == ENGINE_SCORE_BUSY);
        }
        most = std::max(most, flying.size());
        for (size_t i = 0; i < flying.size(); ++i) {
            std::vector<double> out(flying[i].rows.size() / served.features);
            const int status = served.pipeline->poll(flying[i].ticket, out.data());
            if (status == ENGINE_SCORE_PENDING) continue;
            wrong += status != ENGINE_SCORE_OK || !same(out, served.expected(flying[i].rows));
            ++answered;
            flying.erase(flying.begin() + static_cast<ptrdiff_t>(i--));
        }
    }
    CHECK(wrong == 0);
    CHECK(most == 2);
}

TEST(a_device_that_hangs_costs_its_deadline_and_comes_back) {
    fake_driver_reset();
    Served served;
    const auto rows = random_rows(1, 4, served.features);
    std::vector<double> out(4);
    fake_driver_set("hang", 1);
    for (int i = 0; i < 4; ++i)  // two take the lanes, the others find none
        CHECK(served.score(rows, out, 3'000'000) == ENGINE_SCORE_OUT_OF_TIME);
    CHECK(served.pipeline->free_lanes() == 0);
    CHECK(!served.device->lost());
    fake_driver_set("hang", 0);
    while (served.pipeline->free_lanes() < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    CHECK(served.score(rows, out) == ENGINE_SCORE_OK);
    CHECK(same(out, served.expected(rows)));
}

TEST(an_error_that_sticks_loses_the_device_for_good) {
    fake_driver_reset();
    {
        Served served;
        const auto rows = random_rows(1, 4, served.features);
        std::vector<double> out(4);
        fake_driver_set("sticky_code", 700);
        fake_driver_set("sticky_after", 1);
        CHECK(served.score(rows, out) == ENGINE_SCORE_FAILED);
        CHECK(served.device->lost_by() == 700);
        const long long calls = fake_driver_get("graph_launches");
        CHECK(served.score(rows, out) == ENGINE_SCORE_FAILED);
        CHECK(fake_driver_get("graph_launches") == calls);  // the driver is not asked again
    }
    fake_driver_reset();
}

TEST(a_launch_that_fails_once_fails_once) {
    fake_driver_reset();
    Served served(1);
    const auto rows = random_rows(1, 4, served.features);
    std::vector<double> out(4);
    fake_driver_fail("cuGraphLaunch", 2, 1);
    CHECK(served.score(rows, out) == ENGINE_SCORE_FAILED);
    CHECK(!served.device->lost());
    CHECK(served.score(rows, out) == ENGINE_SCORE_OK);
    CHECK(same(out, served.expected(rows)));
}

TEST(more_rows_than_a_batch_holds_are_refused) {
    fake_driver_reset();
    Served served(1, 4);
    const auto rows = random_rows(1, 5, served.features);
    std::vector<double> out(5);
    uint32_t ticket = 0;
    CHECK(served.pipeline->begin(rows.data(), 5, served.features, &ticket) == ENGINE_SCORE_FAILED);
    CHECK(served.pipeline->begin(rows.data(), 0, served.features, &ticket) == ENGINE_SCORE_FAILED);
    CHECK(served.pipeline->free_lanes() == 1);
}

TEST(every_call_may_fail_while_loading_and_leaves_nothing_behind) {
    const char* const calls[] = {
        "cuDeviceGetCount",    "cuDeviceGet",          "cuDevicePrimaryCtxRetain",  "cuMemAlloc",
        "cuMemHostAlloc",      "cuMemcpyHtoD",         "cuMemHostGetDevicePointer", "cuStreamCreate",
        "cuModuleLoadData",    "cuLaunchKernel",       "cuModuleGetFunction",       "cuFuncSetAttribute",
        "cuStreamSynchronize", "cuStreamBeginCapture", "cuStreamEndCapture",        "cuGraphInstantiate"};
    for (const char* call : calls) {
        fake_driver_reset();
        const long long before = fake_driver_get("live");
        fake_driver_fail(call, 2, 1);
        {
            Served served(2, 4, 0);
            if (served.pipeline || served.error.empty()) std::fprintf(stderr, "%s: '%s'\n", call, served.error.c_str());
            CHECK(served.pipeline == nullptr);
            CHECK(!served.error.empty());
        }
        const long long left = fake_driver_get("live") - before;
        if (left != 0) std::fprintf(stderr, "%s leaves %lld behind\n", call, left);
        CHECK(left == 0);
    }
    fake_driver_reset();
}

TEST(no_device_and_no_memory_are_said) {
    fake_driver_reset();
    fake_driver_set("devices", 0);
    CHECK(Served().error.find("CUDA_ERROR_NO_DEVICE") != std::string::npos);
    fake_driver_reset();
    fake_driver_set("memory_bytes", 4096);
    Served served;
    CHECK(served.pipeline == nullptr && served.error.find("CUDA_ERROR_OUT_OF_MEMORY") != std::string::npos);
    fake_driver_reset();
    std::string error;
    CHECK(Device::open(0, "libcuda-of-nobody.so.1", &error) == nullptr);
    CHECK(error.find("no CUDA driver") != std::string::npos);
    CHECK(Device::open(3, driver_path(), &error) == nullptr);
    CHECK(error == "there is no GPU 3: the driver shows 1");
}

TEST(a_body_that_enqueues_nothing_is_refused) {
    fake_driver_reset();
    for (const size_t mapped : {size_t{64 * 1024}, size_t{0}}) {
        Served served;
        PipelineOptions options;
        options.n_features = 2;
        options.rows_max = 2;
        options.mapped_bytes_max = mapped;
        const Body nothing{nullptr, [](void*, Stream, const Batch&) -> Result { return SUCCESS; }, nullptr};
        Function publish = nullptr;
        served.device->driver().cuModuleGetFunction(&publish, served.module, "publish");
        std::string error;
        CHECK(Pipeline::make(served.device, options, nothing, publish, &error) == nullptr);
        CHECK(error == "the model put nothing on the stream while it was captured for 1 rows");
    }
}

TEST(a_body_that_is_refused_while_captured_ends_the_capture) {
    fake_driver_reset();
    Served served;
    // Allocates while the stream captures, which no driver allows: it enqueues, so that warming up goes well.
    struct Greedy {
        const Driver* driver;
        Function publish;
        int calls = 0;
    } greedy{&served.device->driver(), nullptr, 0};
    served.device->driver().cuModuleGetFunction(&greedy.publish, served.module, "publish");
    const Body body{&greedy,
                    [](void* ctx, Stream stream, const Batch& batch) -> Result {
                        auto& self = *static_cast<Greedy*>(ctx);
                        DevicePointer control = batch.control, out = batch.out, more = 0;
                        void* arguments[] = {&control, &out};
                        if (const Result result = self.driver->cuLaunchKernel(self.publish, 1, 1, 1, 1, 1, 1, 0, stream,
                                                                              arguments, nullptr))
                            return result;
                        return ++self.calls == 2 ? self.driver->cuMemAlloc(&more, 64) : SUCCESS;
                    },
                    nullptr};
    PipelineOptions options;
    options.n_features = 2;
    options.rows_max = 1;
    std::string error;
    const long long before = fake_driver_get("live");
    CHECK(Pipeline::make(served.device, options, body, greedy.publish, &error) == nullptr);
    CHECK(error.find("capturing the model for 1 rows") == 0);
    CHECK(fake_driver_get("live") == before);
    fake_driver_reset();
}

int main() {
    register_kernels();
    return check::run_all();
}
