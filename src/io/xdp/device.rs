//! What the kernel says of a network device: its number, MTU, queues and offloads.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::io::xdp::offloads;

/// A network device, as it was when it was asked about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// The kernel's number for it; a device that is deleted and made again gets another.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub is_up: bool,
    /// Its queues.
    pub queues: Queues,
    /// Whether it takes VLAN tags off received frames before the XDP program sees them.
    pub strips_tags: bool,
    /// Whether it is one end of a veth pair: for an XDP program the kernel copies most packets that it receives, and has their
    /// sender cut large ones.
    pub is_veth: bool,
}

/// How many queues a device uses at the moment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Queues {
    /// Queues that frames arrive on.
    pub receive: u32,
    /// Queues that frames leave by.
    pub transmit: u32,
}

impl Queues {
    /// How many sockets can be bound: one to each queue of either kind.
    #[must_use]
    pub fn sockets_max(self) -> u32 {
        self.receive.max(self.transmit)
    }
}

impl Device {
    /// The device called `name`, in the network namespace of this process.
    ///
    /// # Errors
    /// `ENODEV` when there is none.
    pub fn find(name: &str) -> io::Result<Self> {
        let socket = control_socket()?;
        let index = u32::try_from(ask(&socket, name, libc::SIOCGIFINDEX)?).unwrap_or_default();
        let mtu = u32::try_from(ask(&socket, name, libc::SIOCGIFMTU)?).unwrap_or_default();
        // Only the low sixteen bits hold flags.
        let is_up = ask(&socket, name, libc::SIOCGIFFLAGS)? & libc::IFF_UP != 0;
        Ok(Self {
            name: name.to_owned(),
            index,
            mtu,
            is_up,
            queues: queues(&socket, name),
            strips_tags: strips_tags(&socket, name),
            is_veth: driver(&socket, name).is_some_and(|driver| driver == "veth"),
        })
    }

    /// Has the kernel join the TCP segments that it receives by the device (GRO), as it does on cards. Veths are
    /// made without it.
    ///
    /// # Errors
    /// When the driver refuses.
    pub fn join_segments(&self) -> io::Result<()> {
        offloads::set(&self.name, "rx-gro", true)
    }

    /// Whether it takes TCP segments larger than its link does, to cut them or to pass them on whole.
    #[must_use]
    pub fn sends_large(&self) -> bool {
        let socket = control_socket();
        let told = socket.and_then(|socket| ask_driver(&socket, &self.name, [ETHTOOL_GTSO, 0]));
        told.is_ok_and(|[_, on]| on != 0)
    }

    /// The kernel's number of the device called `name`, if there is one.
    #[must_use]
    pub fn index_of(name: &str) -> Option<u32> {
        let socket = control_socket().ok()?;
        u32::try_from(ask(&socket, name, libc::SIOCGIFINDEX).ok()?).ok()
    }
}

/// A socket to ask about devices through.
pub(super) fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: a system call with plain numbers; the result is checked.
    let descriptor =
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just opened and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Asks for a number that `ifreq` carries.
fn ask(socket: &OwnedFd, name: &str, request: libc::c_ulong) -> io::Result<i32> {
    let mut answer = named(name)?;
    // SAFETY: `answer` is an `ifreq` with a terminated name, which these requests fill in.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut answer) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(match request {
        // SAFETY: this request sets the flags.
        libc::SIOCGIFFLAGS => i32::from(unsafe { answer.ifr_ifru.ifru_flags }),
        // SAFETY: index and MTU are both an `int` at the start of the union.
        _ => unsafe { answer.ifr_ifru.ifru_ifindex },
    })
}

fn named(name: &str) -> io::Result<libc::ifreq> {
    let name = CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let name: &CStr = &name;
    // SAFETY: `ifreq` consists of integers, arrays and a pointer, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.to_bytes_with_nul().len() > request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.to_bytes()) {
        *place = byte.cast_signed();
    }
    Ok(request)
}

/// Asks the driver through `SIOCETHTOOL`; `value` starts with the command and is filled in.
fn ask_driver<const N: usize>(
    socket: &OwnedFd,
    name: &str,
    mut value: [u32; N],
) -> io::Result<[u32; N]> {
    // SAFETY: these commands read and write as much as they are given here: structures of fixed sizes.
    unsafe { tell_driver(socket, name, &mut value) }.map(|_| value)
}

/// Asks or tells the driver something through `SIOCETHTOOL`; `value` starts with the command. Returns what the call
/// did.
///
/// # Safety
/// `value` is as long as what the command makes the kernel write.
pub(super) unsafe fn tell_driver(
    socket: &OwnedFd,
    name: &str,
    value: &mut [u32],
) -> io::Result<i32> {
    let mut request = named(name)?;
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: `request` names the device and points to `value`, which lives until the call returns and is
    // long enough, as the caller has it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The queues in use. Drivers that cannot be asked have as many as sysfs shows, or one.
fn queues(socket: &OwnedFd, name: &str) -> Queues {
    // struct ethtool_channels: command, four maxima, then receive, transmit, other, combined.
    if let Ok([_, _, _, _, _, receive, transmit, _, combined]) =
        ask_driver(socket, name, [ETHTOOL_GCHANNELS, 0, 0, 0, 0, 0, 0, 0, 0])
        && combined + receive > 0
    {
        return Queues { receive: combined + receive, transmit: (combined + transmit).max(1) };
    }
    let count = |kind: &str| {
        let entries = std::fs::read_dir(format!("/sys/class/net/{name}/queues"));
        let names = entries.into_iter().flatten().flatten().map(|entry| entry.file_name());
        let count = names.filter(|name| name.to_string_lossy().starts_with(kind)).count();
        u32::try_from(count).unwrap_or(u32::MAX).max(1)
    };
    Queues { receive: count("rx-"), transmit: count("tx-") }
}

fn strips_tags(socket: &OwnedFd, name: &str) -> bool {
    ask_driver(socket, name, [ETHTOOL_GFLAGS, 0])
        .is_ok_and(|[_, flags]| flags & ETH_FLAG_RXVLAN != 0)
}

/// The name of its driver (`ethtool -i`).
fn driver(socket: &OwnedFd, name: &str) -> Option<String> {
    // struct ethtool_drvinfo: command, then 32 bytes of name, then what is of no interest.
    let mut question = [0; 49];
    question[0] = ETHTOOL_GDRVINFO;
    let answer = ask_driver(socket, name, question).ok()?;
    let bytes = answer[1..9].iter().flat_map(|word| word.to_ne_bytes());
    String::from_utf8(bytes.take_while(|byte| *byte != 0).collect()).ok()
}

// linux/sockios.h and linux/ethtool.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GTSO: u32 = 0x1e;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_and_others_are_not() {
        let device = Device::find("lo").expect("every namespace has one");
        assert_eq!(device.index, 1);
        assert!(device.queues.receive >= 1);
        assert_eq!(Device::index_of("lo"), Some(1));
        for name in ["no-such-device", "a-name-that-is-too-long-for-linux", "nul\0"] {
            let error = Device::find(name).expect_err("no such device");
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{name}");
        }
    }
}
