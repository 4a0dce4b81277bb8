//! Checksums of untagged IPv4 frames without options, by hand.

/// Makes the checksum of the IPv4 header right.
pub fn repair(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let words =
        frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
}

/// The sum that stands in place of the checksum of an untagged IPv4 frame, with so many bytes behind its IPv4 header,
/// if its sender leaves that to its device.
pub fn pseudo_header_sum(frame: &[u8], length: u16) -> u16 {
    let words = frame[26..34].chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let sum: u32 = words.chain([u16::from(frame[23]), length]).map(u32::from).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
