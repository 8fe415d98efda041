//! datapath-bpf
