//! The layouts of `ipvlan_abi` as aya wants to see them.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use aya::Pod;

/// A type of `ipvlan_abi` in a map.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Raw<T>(pub(crate) T);

macro_rules! pod {
    ($($layout:ty),*) => {$(
        // SAFETY: Pod wants a type that may be copied from and to bytes. This one is repr(C), made
        // of integers and arrays of them, without padding (its size is asserted to be the sum of
        // its fields where it is defined), and any bytes are a value of it.
        unsafe impl Pod for Raw<$layout> {}
    )*};
}

pod!(
    ipvlan_abi::PortEntry,
    ipvlan_abi::Owner,
    ipvlan_abi::DevEntry,
    ipvlan_abi::DropKey,
    ipvlan_abi::GrantKey,
    ipvlan_abi::ClaimKey,
    ipvlan_abi::GuestEntry,
    crate::takeover::PortEntry2,
    crate::takeover::GrantKey2
);
