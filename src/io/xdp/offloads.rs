//! What a device does for the kernel, by the names that `ethtool -k` has for it.

use std::io;

use crate::io::xdp::device::{control_socket, tell_driver};

/// Turns a feature of the device called `name` on or off.
///
/// # Errors
/// `ENOTSUP` when the device has no such feature or cannot change it, or what the kernel says.
pub(super) fn set(name: &str, feature: &str, on: bool) -> io::Result<()> {
    let socket = control_socket()?;
    // Command, reserved, a mask of 64 bits, and the one count asked for.
    let mut sizes = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    // SAFETY: one set is asked about, so one count is written behind the mask.
    unsafe { tell_driver(&socket, name, &mut sizes) }?;
    let [.., count] = sizes;
    let mut names = vec![0; 3 + count as usize * NAME_WORDS];
    names[..3].copy_from_slice(&[ETHTOOL_GSTRINGS, ETH_SS_FEATURES, count]);
    // SAFETY: there are as many names as the kernel just said, each this long.
    unsafe { tell_driver(&socket, name, &mut names) }?;
    let is_it = |words: &[u32]| {
        let bytes = words.iter().flat_map(|word| word.to_ne_bytes());
        bytes.take_while(|byte| *byte != 0).eq(feature.bytes())
    };
    let unsupported = || io::Error::from_raw_os_error(libc::ENOTSUP);
    let place = names[3..].chunks(NAME_WORDS).position(is_it).ok_or_else(unsupported)?;
    // Of each block of 32: which to set, and to what.
    let mut blocks = vec![0; 2 + 2 * count.div_ceil(32) as usize];
    blocks[..2].copy_from_slice(&[ETHTOOL_SFEATURES, count.div_ceil(32)]);
    let (block, bit) = (2 + place / 32 * 2, 1 << (place % 32));
    blocks[block] = bit;
    blocks[block + 1] = if on { bit } else { 0 };
    // SAFETY: the kernel only reads them.
    match unsafe { tell_driver(&socket, name, &mut blocks) }? {
        0 => Ok(()),
        _ => Err(unsupported()),
    }
}

// linux/ethtool.h.
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
/// Words of a name.
const NAME_WORDS: usize = 8;
