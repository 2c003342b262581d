"""The XDP data path.

`abi` mirrors bpf/abi.h; `bpf` is the system call; `maps` the pinned objects; `index`,
`ring` and `shape` are pure; `loader` is the child that compiles and attaches; `plane`
puts them together behind the port.
"""
