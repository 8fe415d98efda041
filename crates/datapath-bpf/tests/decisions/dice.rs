//! Frames by chance: valid ones, odd ones, and valid ones with damage.

use crate::{FOREIGN_MAC, PARENT_MAC, V4, V6};

/// A source of choices that can be had again: splitmix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn number(&mut self, below: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % below
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[7]
    }

    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.number(n) == 0
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.number(choices.len())]
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    fn mac(&mut self) -> [u8; 6] {
        let mut mac = self.of(&[
            PARENT_MAC,
            PARENT_MAC,
            FOREIGN_MAC,
            [0xff; 6],
            [0x33, 0x33, 0, 0, 0, 1],
            [0x01, 0x00, 0x5e, 0, 0, 0xfb],
            [0x01, 0x80, 0xc2, 0, 0, 0],
        ]);
        if self.one_in(8) {
            mac[self.number(6)] = self.byte();
        }
        mac
    }

    pub(crate) fn frame(&mut self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.mac());
        frame.extend(self.mac());
        match self.number(10) {
            0 | 1 => self.arp(&mut frame),
            2..=4 => self.v4(&mut frame),
            5..=8 => self.v6(&mut frame),
            _ => {
                let ethertype = self.of(&[0x8100_u16, 0x88a8, 0x8035, 0x88cc, 0x0026, 0x86dd]);
                frame.extend(ethertype.to_be_bytes());
                let count = self.number(80);
                frame.extend(self.bytes(count));
            }
        }
        // Damage.
        if self.one_in(6) {
            let keep = 14 + self.number(frame.len() - 13);
            frame.truncate(keep);
        }
        if self.one_in(6) {
            let at = self.number(frame.len());
            frame[at] = self.byte();
        }
        if self.one_in(12) {
            let count = self.number(1600);
            frame.extend(self.bytes(count));
        }
        frame
    }

    pub(crate) fn arp(&mut self, frame: &mut Vec<u8>) {
        frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, self.of(&[1, 1, 2])]);
        frame.extend(self.mac());
        frame.extend(self.of(&V4));
        frame.extend(self.mac());
        frame.extend(self.of(&V4));
    }

    fn v4(&mut self, frame: &mut Vec<u8>) {
        let payload = self.number(64);
        let ihl = self.of(&[5_u8, 5, 5, 6, 15, 4, 0]);
        let total = u16::try_from(20 + payload).unwrap();
        let total = self.of(&[total, total, total, 0, total + 1, 19, 0xffff]);
        frame.extend([0x08, 0, self.of(&[0x40, 0x40, 0x40, 0x50]) | ihl, 0]);
        frame.extend(total.to_be_bytes());
        frame.extend([0, 1, 0, 0, 64, self.of(&[1, 6, 17, 17, 17]), 0, 0]);
        frame.extend(self.of(&V4));
        let mut destination = self.of(&V4);
        if self.one_in(6) {
            destination = self.of(&[[255; 4], [127, 0, 0, 1], [240, 0, 0, 1], [0; 4]]);
        }
        frame.extend(destination);
        let mut payload = self.bytes(payload);
        self.dhcp(&mut payload);
        frame.extend(payload);
    }

    /// Makes some of the payloads look like DHCP.
    fn dhcp(&mut self, payload: &mut [u8]) {
        if self.one_in(4) {
            return;
        }
        let port = self.of(&[67_u16, 68, 68, 68, 546, 546, 547]).to_be_bytes();
        if let Some(destination) = payload.get_mut(2..4) {
            destination.copy_from_slice(&port);
        }
        let identity = [2, 1, 2, 3, 0, self.of(&[0, 1])];
        let mac = self.of(&[PARENT_MAC, identity, identity, FOREIGN_MAC]);
        if let Some(hardware) = payload.get_mut(36..42) {
            hardware.copy_from_slice(&mac);
        }
    }

    fn v6(&mut self, frame: &mut Vec<u8>) {
        let mut payload = Vec::new();
        let mut first = None;
        let extensions = self.of(&[0, 0, 0, 0, 1, 2, 7, 8, 9]);
        let mut kinds: Vec<u8> = (0..extensions)
            .map(|_| self.of(&[0, 43, 44, 51, 60, 60, 60, 135, 139, 140]))
            .collect();
        let last = self.of(&[58_u8, 58, 58, 58, 6, 17, 17, 17, 59, 50]);
        kinds.push(last);
        for pair in kinds.windows(2) {
            let (kind, next) = (pair[0], pair[1]);
            let _: u8 = *first.get_or_insert(kind);
            let length = self.of(&[0_u8, 0, 0, 1, 3, 30]);
            match kind {
                44 => {
                    payload.extend([next, 0, 0, self.of(&[0, 1, 8]), 0, 0, 0, 1]);
                }
                51 => {
                    let count = (usize::from(length) + 2) * 4;
                    payload.extend([next, length]);
                    payload.extend(self.bytes(count - 2));
                }
                _ => {
                    let count = (usize::from(length) + 1) * 8;
                    payload.extend([next, length]);
                    payload.extend(self.bytes(count - 2));
                }
            }
        }
        if last == 58 {
            self.icmp(&mut payload);
        } else {
            let count = self.number(64);
            let mut rest = self.bytes(count);
            self.dhcp(&mut rest);
            payload.extend(rest);
        }
        let length = u16::try_from(payload.len()).unwrap();
        let length = self.of(&[length, length, length, length, 0, length / 2, length + 8]);
        frame.extend([0x86, 0xdd, self.of(&[0x60, 0x60, 0x60, 0x40]), 0, 0, 0]);
        frame.extend(length.to_be_bytes());
        frame.extend([first.unwrap_or(last), 255]);
        frame.extend(if self.one_in(5) {
            [0; 16]
        } else {
            self.of(&V6)
        });
        frame.extend(self.of(&V6));
        frame.extend(payload);
    }

    fn icmp(&mut self, payload: &mut Vec<u8>) {
        let kind = self.of(&[128_u8, 133, 134, 135, 135, 136, 136, 137, 141, 142, 143]);
        payload.extend([kind, 0, self.byte(), self.byte(), 0, 0, 0, 0]);
        let fixed = match kind {
            134 => 8,
            135 | 136 => {
                payload.extend(self.of(&V6));
                0
            }
            137 => 32,
            _ => 0,
        };
        payload.extend(self.bytes(fixed));
        for _ in 0..self.of(&[0_usize, 1, 1, 1, 2, 3, 15, 17]) {
            let option = self.of(&[1_u8, 2, 3, 5, 14]);
            let length = self.of(&[1_u8, 1, 1, 2, 4, 0, 40]);
            payload.extend([option, length]);
            payload.extend(self.mac());
            let rest = (usize::from(length) * 8).saturating_sub(8);
            payload.extend(self.bytes(rest));
        }
        let tail = self.of(&[0, 0, 0, 3, 7]);
        payload.extend(self.bytes(tail));
    }
}
