//! An initramfs in the making.

/// In cpio's "newc" format, as the kernel's
/// `Documentation/driver-api/early-userspace/buffer-format.rst` has it.
#[derive(Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    pub(super) fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, &[]);
    }

    pub(super) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_644, content);
    }

    pub(super) fn program(&mut self, name: &str, content: &[u8]) {
        self.entry(name, 0o100_755, content);
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let (inode, links, size) = (self.entries, 1, content.len());
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{links:08x}{0:08x}{size:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{1:08x}{0:08x}",
            0,
            name.len() + 1
        );
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    #[test]
    fn an_archive_is_aligned_and_ends_with_the_trailer() {
        let mut archive = Archive::default();
        archive.file("a", b"12345");
        let bytes = archive.end();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(bytes.get(..6), Some(&b"070701"[..]));
        assert_eq!(bytes.get(54..62), Some(&b"00000005"[..]), "size");
        assert!(bytes.windows(10).any(|part| part == b"TRAILER!!!"));
    }
}
