// The kernels compiled for this processor, by name, for the fake driver.
#define FAKE_DRIVER_KERNELS
#include "kernels/engine.cu"
#include "tests/gpu/fake/fake_driver.hpp"

extern "C" void register_kernels() {
    fake_driver::add("forest_rows_1", forest_rows_1);
    fake_driver::add("forest_rows_4", forest_rows_4);
    fake_driver::add("forest_rows_8", forest_rows_8);
    fake_driver::add("forest_rows_16", forest_rows_16);
    fake_driver::add("forest_code", forest_code);
    fake_driver::add("forest_trees", forest_trees);
    fake_driver::add("forest_sum", forest_sum);
    fake_driver::add("forest_scale", forest_scale);
    fake_driver::add("dense_rows_1", dense_rows_1);
    fake_driver::add("dense_rows_4", dense_rows_4);
    fake_driver::add("dense_rows_8", dense_rows_8);
    fake_driver::add("embed_bags", embed_bags);
    fake_driver::add("publish", publish);
    fake_driver::add("spin", spin);
}
