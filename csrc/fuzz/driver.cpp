// Runs a fuzz target where libFuzzer is not at hand: first the corpus, then mutations of it, until the time is up.
//
//     fuzz_NAME [CORPUS FOLDER or FILE ...] [-seconds=N] [-seed=N]
//
// Without -seconds only the given files run, which is how an input that broke the target is tried again. The same seed
// makes the same inputs. Each input is written to fuzz_NAME.crash beside the binary before it runs, because a sanitizer
// ends the process; after the last input the file is removed.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/random.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;
constexpr size_t SIZE_MAX_GROWN = 4096;

Input read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void gather(const std::filesystem::path& path, std::vector<Input>& corpus) {
    if (!std::filesystem::is_directory(path)) return void(corpus.push_back(read(path)));
    std::vector<std::filesystem::path> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
        if (entry.is_regular_file()) found.push_back(entry.path());
    std::sort(found.begin(), found.end());
    for (const auto& each : found) corpus.push_back(read(each));
}

// Applies one to eight of these: a bit flipped, a byte set to an edge value, a piece removed, repeated, or taken from
// another input.
void mutate(Input& input, const std::vector<Input>& corpus, engine::Random& random) {
    const auto next = [&] { return random.bits(); };
    static constexpr uint8_t EDGES[] = {0, 1, 0x7f, 0x80, 0xff, '"', '{', '[', '\\', '-', '9', 'e'};
    for (uint64_t steps = 1 + next() % 8; steps > 0; --steps) {
        const size_t at = input.empty() ? 0 : next() % input.size();
        const size_t length = input.empty() ? 0 : 1 + next() % std::min<size_t>(input.size() - at, 64);
        switch (next() % 6) {
            case 0:
                if (!input.empty()) input[at] ^= static_cast<uint8_t>(1u << (next() % 8));
                break;
            case 1:
                if (!input.empty()) input[at] = EDGES[next() % std::size(EDGES)];
                break;
            case 2: input.erase(input.begin() + at, input.begin() + at + length); break;
            case 3: {
                const Input piece(input.begin() + at, input.begin() + at + length);
                if (input.size() < SIZE_MAX_GROWN) input.insert(input.begin() + at, piece.begin(), piece.end());
                break;
            }
            case 4: {
                const Input& other = corpus[next() % corpus.size()];
                if (other.empty() || input.size() >= SIZE_MAX_GROWN) break;
                const size_t from = next() % other.size();
                const size_t count = 1 + next() % std::min<size_t>(other.size() - from, 64);
                input.insert(input.begin() + at, other.begin() + from, other.begin() + from + count);
                break;
            }
            default: input.insert(input.begin() + at, static_cast<uint8_t>(next()));
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<Input> corpus;
    double seconds = 0;
    uint64_t seed = 1;
    for (int i = 1; i < argc; ++i) {
        if (std::strncmp(argv[i], "-seconds=", 9) == 0) seconds = std::atof(argv[i] + 9);
        else if (std::strncmp(argv[i], "-seed=", 6) == 0) seed = std::strtoull(argv[i] + 6, nullptr, 10);
        else gather(argv[i], corpus);
    }
    if (corpus.empty()) corpus.emplace_back();
    const std::filesystem::path kept = std::string(argv[0]) + ".crash";
    uint64_t count = 0;
    const auto run = [&](const Input& input) {
        std::ofstream(kept, std::ios::binary).write(reinterpret_cast<const char*>(input.data()), input.size());
        ++count;
        LLVMFuzzerTestOneInput(input.data(), input.size());
    };
    std::fprintf(stderr, "%s: seed %llu, %zu inputs; the input that runs is kept in %s\n", argv[0],
                 static_cast<unsigned long long>(seed), corpus.size(), kept.c_str());
    for (const Input& input : corpus) run(input);
    engine::Random random(seed, 0);
    const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
    while (std::chrono::steady_clock::now() < until) {
        Input input = corpus[random.bits() % corpus.size()];
        mutate(input, corpus, random);
        run(input);
    }
    std::filesystem::remove(kept);
    std::printf("%s: %llu inputs, none broke it\n", argv[0], static_cast<unsigned long long>(count));
}
