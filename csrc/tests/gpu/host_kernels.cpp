// The kernels compiled for this processor, by name, for the fake driver.
#define FAKE_DRIVER_KERNELS
#include "kernels/engine.cu"
#include "tests/gpu/fake/fake_driver.hpp"

#define ADD(kernel) fake_driver::add(#kernel, kernel)
#define ADD_ROWS(name, suffix) \
    ADD(name##_rows_1##suffix), ADD(name##_rows_4##suffix), ADD(name##_rows_8##suffix), ADD(name##_rows_16##suffix)

extern "C" void register_kernels();
extern "C" void register_kernels() {
    ADD_ROWS(forest, _f32), ADD_ROWS(forest, _f64), ADD_ROWS(symmetric, _f32), ADD_ROWS(symmetric, _f64);
    ADD_ROWS(wide, _f32), ADD_ROWS(wide, _f64);
    ADD(forest_code_f32), ADD(forest_code_f64), ADD(forest_trees), ADD(forest_sum), ADD(forest_row_links);
    ADD(dense_rows_1_f32), ADD(dense_rows_4_f32), ADD(dense_rows_8_f32);
    ADD(dense_rows_1_f64), ADD(dense_rows_4_f64), ADD(dense_rows_8_f64);
    ADD(embed_bags), ADD(top_k), ADD(publish), ADD(widen), ADD(spin);
}

#ifdef FAKE_DRIVER_REGISTERS
namespace {
const bool registered = (register_kernels(), true);
}
#endif
