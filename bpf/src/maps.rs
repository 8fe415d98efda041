//! Every map, and nothing else. What is in them: `ipvlan_abi`.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, ProgramArray, RingBuf};
use ipvlan_abi::{
    CLAIMS_BYTES, ClaimKey, ClientEntry, DevEntry, DropKey, GrantKey, GuestEntry, MAX_DEVS,
    MAX_DROPS, MAX_GRANTS, MAX_LEARNT, MAX_OWNERS, Owner, PortEntry, SENDERS,
};

#[map]
pub(crate) static PORT: Array<PortEntry> = Array::with_max_entries(1, 0);

// No preallocation: a port has a handful of addresses, and room for 65,536. It also keeps an entry
// in its place until the last reader has left, so a reference into the map stays what it was.
#[map]
pub(crate) static OWNERS4: HashMap<[u8; 4], Owner> =
    HashMap::with_max_entries(MAX_OWNERS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static OWNERS6: HashMap<[u8; 16], Owner> =
    HashMap::with_max_entries(MAX_OWNERS, BPF_F_NO_PREALLOC);

// No trie comes preallocated. As many as there can be prefixes by hand.
#[map]
pub(crate) static PREFIXES4: LpmTrie<[u8; 4], Owner> =
    LpmTrie::with_max_entries(MAX_GRANTS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static PREFIXES6: LpmTrie<[u8; 16], Owner> =
    LpmTrie::with_max_entries(MAX_GRANTS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static DEVS: HashMap<u32, DevEntry> =
    HashMap::with_max_entries(MAX_DEVS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static MEMBERS: Array<u32> = Array::with_max_entries(MAX_DEVS, 0);

#[map]
pub(crate) static DROPS: PerCpuHashMap<DropKey, u64> =
    PerCpuHashMap::with_max_entries(MAX_DROPS, BPF_F_NO_PREALLOC);

// One for each sender, by the lower bits of its ifindex; nobody has to tidy it up. Two devices whose
// numbers are exactly that far apart share one, which they notice when one of them floods.
#[map]
pub(crate) static FLOODS: Array<u64> = Array::with_max_entries(SENDERS, 0);

// By the same bits. Two that share one and ask at the same time have to ask again.
#[map]
pub(crate) static CLIENTS: Array<ClientEntry> = Array::with_max_entries(SENDERS, 0);

// Where a walk through a frame keeps how far it has come; see `Skb::walk`.
pub(crate) type Scratch = [u64; 5];

#[map]
pub(crate) static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

// Programs of their own, because what they are for is rare and is walked: the verifier would walk it
// behind every path of a hook.
#[map]
pub(crate) static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(3, 0);

// By host end of a tap; the control plane makes the entry.
#[map]
pub(crate) static GUESTS: HashMap<u32, GuestEntry> =
    HashMap::with_max_entries(MAX_DEVS, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static LEARNT: HashMap<ClaimKey, u64> =
    HashMap::with_max_entries(MAX_LEARNT, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static CLAIMS: RingBuf = RingBuf::with_byte_size(CLAIMS_BYTES, 0);

// No program reads it. It is here to be in the kernel, with the rest of the port.
#[map]
pub(crate) static GRANTS: HashMap<GrantKey, u8> =
    HashMap::with_max_entries(MAX_GRANTS, BPF_F_NO_PREALLOC);
