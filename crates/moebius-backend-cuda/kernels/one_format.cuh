// The products of one format, `FORMAT` and `FORMAT_TYPE`, as a module of its own: a driver compiles a module when it is
// first used, which takes seconds for each format.

#include "products.cu"
#ifndef FORMAT_IS_PLAIN
#include "wide.cu"
#endif
