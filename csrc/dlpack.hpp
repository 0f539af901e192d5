/// The part of DLPack's C exchange interface (version 1) that is used here: a look at a tensor without a copy, an
/// allocation or a call of Python, and tensors that are made of memory. Laid out as its standard has it; see dmlc/dlpack.
#pragma once

#include <cstdint>

namespace throughtime::dlpack {

struct Tensor {
    void* data;
    struct { int32_t type, id; } device;
    int32_t axes;
    struct { uint8_t code, bits; uint16_t lanes; } type;
    const int64_t *shape, *strides;  // in elements
    uint64_t byte_offset;
};

/// A tensor with the memory that it is in.
struct Managed {
    struct { uint32_t major, minor; } version;
    void* owner;
    void (*release)(Managed* self);
    uint64_t flags;
    Tensor tensor;
};

constexpr int32_t cpu = 1;
constexpr uint8_t whole = 0, floating = 2;

struct Exchange {
    struct { uint32_t major, minor; const void* previous; } version;
    void* allocate;
    void* from_python;
    int (*to_python)(Managed* tensor, void** object);  // 0, and the tensor is the object's; or -1 and an exception
    int (*look)(void* object, Tensor* out);  // 0, or -1 and a Python exception; may be null
    void* stream;
};

constexpr const char* attribute = "__dlpack_c_exchange_api__";
constexpr const char* capsule = "dlpack_exchange_api";

}  // namespace throughtime::dlpack
