//! Taps: what their guests own, and what they have of the parent.

use super::*;

#[test]
fn what_was_given_to_a_tap_is_its_guest_s_while_it_is_up() {
    let mut kernel = with_tap(Mode::L2);
    assert_eq!(kernel.plan(), []);
    assert_eq!(kernel.owner("10.0.0.20"), Some(20));
    assert_eq!(kernel.owner("fd00::20"), Some(20));
    let owner = kernel.port().owners[&net("fd00::20")];
    assert_eq!(owner.kind, OWNER_HERE);
    // Whoever else takes it.
    let _: bool = kernel.dev(10).addresses.insert(ip("10.0.0.20"));
    let _: bool = kernel.world.own.insert(ip("10.0.0.20"));
    assert_eq!(kernel.plan(), []);
    kernel.dev(20).host.as_mut().expect("the tap").flags &= !UP;
    let _: usize = kernel.reconcile();
    assert_eq!(kernel.owner("10.0.0.20"), Some(PARENT));
    assert_eq!(kernel.owner("fd00::20"), None);
    let tap = kernel.dev(20).host.as_ref().expect("the tap");
    assert!(!tap.is_up(), "that is its user's to say");
}

#[test]
fn a_tap_follows_its_parent_and_stays_silent() {
    let mut kernel = with_tap(Mode::L2);
    kernel.parent().mac = Some(OTHER_MAC);
    kernel.parent().mtu = 9000;
    let _: usize = kernel.reconcile();
    let look = |kernel: &mut Kernel| kernel.dev(20).host.clone().expect("the tap");
    let found = look(&mut kernel);
    assert_eq!((found.mac, found.mtu), (Some(OTHER_MAC), 9000));
    assert_eq!(found.flags & IFF_NOARP, 0);
    kernel.port().entry.mode = Mode::L3 as u8;
    kernel.dev(20).host.as_mut().expect("the tap").addr_gen_mode = Some(AddrGenMode::Eui64);
    let _: usize = kernel.reconcile();
    let found = look(&mut kernel);
    assert_ne!(found.flags & IFF_NOARP, 0);
    assert_eq!(found.addr_gen_mode, Some(AddrGenMode::None));
    // An MTU of its own stays.
    kernel.dev(20).host.as_mut().expect("the tap").mtu = 1400;
    assert_eq!(kernel.plan(), []);
}

#[test]
fn a_tap_loses_its_carrier_with_its_parent_and_gets_back_what_it_lost() {
    let mut kernel = with_tap(Mode::L2);
    let carrier = |kernel: &mut Kernel| {
        let dev = kernel.dev(20);
        let has = dev.host.as_ref().expect("the tap").has_carrier();
        (has, dev.entry.bits & DEV_MUTED != 0)
    };
    kernel.parent().flags &= !LOWER_UP;
    let _: usize = kernel.reconcile();
    assert_eq!(carrier(&mut kernel), (false, true));
    // Somebody opens it again.
    kernel.open(20);
    let _: usize = kernel.reconcile();
    assert_eq!(carrier(&mut kernel), (false, true));
    kernel.parent().flags |= LOWER_UP;
    let _: usize = kernel.reconcile();
    assert_eq!(carrier(&mut kernel), (true, false));
    // That nobody has it open is not our doing.
    kernel.close(20);
    let _: usize = kernel.reconcile();
    assert_eq!(carrier(&mut kernel), (false, false));
}

#[test]
fn a_tap_that_is_not_ready_or_has_no_parent_goes() {
    let mut kernel = with_tap(Mode::L2);
    kernel.dev(20).entry.bits = DEV_TAP;
    let steps = kernel.plan();
    assert!(
        steps.contains(&delete(20)) && steps.contains(&forget(20)),
        "{steps:?}"
    );
    let mut kernel = with_tap(Mode::L2);
    kernel.port().parent = None;
    let steps = kernel.plan();
    assert!(
        steps.contains(&delete(20)) && steps.contains(&delete(10)),
        "{steps:?}"
    );
    let _: usize = kernel.reconcile();
    assert!(kernel.world.ports.is_empty());
}
