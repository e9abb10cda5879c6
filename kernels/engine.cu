// Every kernel of the package, as one module.
#include "dense.cuh"
#include "embedding.cuh"
#include "forest.cuh"
#include "publish.cuh"
#include "rows.cuh"
