//! tmp
use ipvlan_abi::*;
use ipvlan_datapath_bpf::*;
#[test]
fn tmp() {
    nix_unshare();
    let dir = std::path::Path::new("/tmp/bg/bpffs/t1");
    let mut p = Port::create(dir, "lo", PortEntry{abi:0,ifindex:1,members:0,mtu:1500,mac:[2,0,0,0,0,1],mode:0,flag:0,bits:0}, Capacity::default());
    if let Err(e) = &p { let mut s: Option<&dyn std::error::Error> = Some(e); while let Some(x)=s { println!("{x}"); s = x.source(); } panic!() }
    let p = p.unwrap();
    println!("{:?} {:?}", p.entry(), p.is_orphaned());
    p.remove(None).unwrap();
}
fn nix_unshare() { nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap(); }
