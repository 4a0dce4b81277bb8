//! Captures: frames with the time they were seen, read from pcap and pcapng files and written to
//! them.
//!
//! A file is read by what it says it is, and written by its name: pcapng if it ends in `.pcapng`,
//! pcap with nanoseconds otherwise.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgReader, PcapNgWriter};
use pcap_file::{DataLink, PcapError, TsResolution};

/// A frame of a capture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Captured {
    /// When it was seen, since 1970.
    pub at: Duration,
    /// The frame, as far as it was captured.
    pub bytes: Vec<u8>,
}

/// Why a capture cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened, read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// It is no capture, or a damaged one.
    #[error("not a sound pcap or pcapng file: {0}")]
    Malformed(PcapError),
    /// It holds frames of another kind of link.
    #[error("it holds frames of link type {0:?}; natwerk reads Ethernet")]
    NotEthernet(DataLink),
}

impl From<PcapError> for CaptureError {
    fn from(error: PcapError) -> Self {
        match error {
            PcapError::IoError(error) => Self::File(error),
            error => Self::Malformed(error),
        }
    }
}

/// Reads the frames of a capture, one by one. After an error there are no more.
pub struct CaptureReader<R: Read> {
    format: Option<ReadFormat<R>>,
}

enum ReadFormat<R: Read> {
    Pcap(PcapReader<io::Chain<io::Cursor<Vec<u8>>, R>>),
    PcapNg(PcapNgReader<io::Chain<io::Cursor<Vec<u8>>, R>>),
}

impl CaptureReader<BufReader<File>> {
    /// Opens a capture.
    ///
    /// # Errors
    /// When there is none, or it is not one.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Self::new(BufReader::new(File::open(path)?))
    }
}

impl<R: Read> CaptureReader<R> {
    /// Reads a capture from `reader`.
    ///
    /// # Errors
    /// When it is not one.
    pub fn new(mut reader: R) -> Result<Self, CaptureError> {
        let mut magic = Vec::with_capacity(PCAPNG_MAGIC.len());
        reader.by_ref().take(PCAPNG_MAGIC.len() as u64).read_to_end(&mut magic)?;
        let is_pcapng = magic == PCAPNG_MAGIC;
        let whole = io::Cursor::new(magic).chain(reader);
        let format = if is_pcapng {
            ReadFormat::PcapNg(PcapNgReader::new(whole)?)
        } else {
            let reader = PcapReader::new(whole)?;
            ethernet(reader.header().datalink)?;
            ReadFormat::Pcap(reader)
        };
        Ok(Self { format: Some(format) })
    }

    fn read(&mut self) -> Option<Result<Captured, CaptureError>> {
        match self.format.as_mut()? {
            ReadFormat::Pcap(reader) => Some(match reader.next_packet()? {
                Ok(packet) => {
                    Ok(Captured { at: packet.timestamp, bytes: packet.data.into_owned() })
                }
                Err(error) => Err(error.into()),
            }),
            ReadFormat::PcapNg(reader) => read_pcapng(reader),
        }
    }
}

impl<R: Read> Iterator for CaptureReader<R> {
    type Item = Result<Captured, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.read();
        if !matches!(item, Some(Ok(_))) {
            self.format = None;
        }
        item
    }
}

/// The next frame of a pcapng file; blocks that hold none are passed over.
fn read_pcapng<R: Read>(reader: &mut PcapNgReader<R>) -> Option<Result<Captured, CaptureError>> {
    loop {
        let (interface, units, bytes) = match reader.next_block()? {
            Ok(Block::EnhancedPacket(packet)) => {
                (packet.interface_id, packet.timestamp.as_nanos(), packet.data.into_owned())
            }
            // Has no time; it is as good as seen when capturing began.
            Ok(Block::SimplePacket(packet)) => (0, 0, packet.data.into_owned()),
            Ok(_) => continue,
            Err(error) => return Some(Err(error.into())),
        };
        let interfaces = reader.interfaces();
        let Some(interface) = usize::try_from(interface).ok().and_then(|it| interfaces.get(it))
        else {
            return Some(Err(PcapError::InvalidInterfaceId(interface).into()));
        };
        let sound = ethernet(interface.linktype);
        return Some(sound.map(|()| Captured { at: time(interface, units), bytes }));
    }
}

/// What `units` of an interface's clock are. pcap-file takes every unit for a nanosecond.
fn time(interface: &InterfaceDescriptionBlock<'_>, units: u128) -> Duration {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    let resolution = resolution.unwrap_or(MICROSECONDS);
    let exponent = u32::from(resolution & 0x7f);
    let base: u128 = if resolution & 0x80 == 0 { 10 } else { 2 };
    let per_second = base.checked_pow(exponent).unwrap_or(u128::MAX);
    let seconds = u64::try_from(units / per_second).unwrap_or(u64::MAX);
    let nanoseconds = (units % per_second).checked_mul(1_000_000_000).map_or(0, |n| n / per_second);
    Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
}

fn ethernet(link: DataLink) -> Result<(), CaptureError> {
    if link == DataLink::ETHERNET { Ok(()) } else { Err(CaptureError::NotEthernet(link)) }
}

/// Writes a capture.
pub struct CaptureWriter<W: Write> {
    format: WriteFormat<W>,
}

enum WriteFormat<W: Write> {
    Pcap(PcapWriter<W>),
    PcapNg(PcapNgWriter<W>),
}

impl CaptureWriter<BufWriter<File>> {
    /// Makes (or overwrites) the capture at `path`, of interfaces called `interfaces`; a pcap file
    /// holds frames of all of them without saying of which.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, interfaces: &[&str]) -> Result<Self, CaptureError> {
        let writer = BufWriter::new(File::create(path)?);
        if path.extension().is_some_and(|extension| extension == "pcapng") {
            Self::pcapng(writer, interfaces)
        } else {
            Self::pcap(writer)
        }
    }
}

impl<W: Write> CaptureWriter<W> {
    /// Writes pcap to `writer`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn pcap(writer: W) -> Result<Self, CaptureError> {
        let header = PcapHeader { ts_resolution: TsResolution::NanoSecond, ..native_header() };
        Ok(Self { format: WriteFormat::Pcap(PcapWriter::with_header(writer, header)?) })
    }

    /// Writes pcapng of interfaces called `interfaces` to `writer`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn pcapng(writer: W, interfaces: &[&str]) -> Result<Self, CaptureError> {
        let mut writer = PcapNgWriter::new(writer)?;
        for name in interfaces {
            let name = InterfaceDescriptionOption::IfName(Cow::Borrowed(*name));
            let resolution = InterfaceDescriptionOption::IfTsResol(NANOSECONDS);
            let interface = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: 0,
                options: vec![name, resolution],
            };
            writer.write_block(&interface.into_block())?;
        }
        Ok(Self { format: WriteFormat::PcapNg(writer) })
    }

    /// Writes a frame of the interface with that number; pcapng files keep the comment too.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(
        &mut self,
        interface: u32,
        at: Duration,
        bytes: &[u8],
        comment: Option<&str>,
    ) -> Result<(), CaptureError> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        match &mut self.format {
            WriteFormat::Pcap(writer) => {
                writer.write_packet(&PcapPacket::new(at, length, bytes))?;
            }
            WriteFormat::PcapNg(writer) => {
                let comment = comment.map(|text| EnhancedPacketOption::Comment(text.into()));
                let packet = EnhancedPacketBlock {
                    interface_id: interface,
                    timestamp: at,
                    original_len: length,
                    data: Cow::Borrowed(bytes),
                    options: comment.into_iter().collect(),
                };
                writer.write_block(&packet.into_block())?;
            }
        }
        Ok(())
    }

    /// Writes what is still in memory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(self) -> Result<W, CaptureError> {
        let mut writer = match self.format {
            WriteFormat::Pcap(writer) => writer.into_writer(),
            WriteFormat::PcapNg(writer) => writer.into_inner(),
        };
        writer.flush()?;
        Ok(writer)
    }
}

fn native_header() -> PcapHeader {
    PcapHeader { endianness: pcap_file::Endianness::native(), ..PcapHeader::default() }
}

const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// `if_tsresol` when it is left out, and as we write it: negative powers of ten.
const MICROSECONDS: u8 = 6;
const NANOSECONDS: u8 = 9;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<Captured>, CaptureError> {
        CaptureReader::new(bytes)?.collect()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            pcapng in any::<bool>(),
            frames in prop::collection::vec(
                (0u64..4_000_000_000, 0u32..1_000_000_000, prop::collection::vec(any::<u8>(), 0..100)),
                0..10,
            ),
        ) {
            let mut writer = if pcapng {
                CaptureWriter::pcapng(Vec::new(), &["eth0", "eth1"])
            } else {
                CaptureWriter::pcap(Vec::new())
            }.expect("written");
            let frames: Vec<_> = frames.into_iter().map(|(seconds, nanoseconds, bytes)| {
                Captured { at: Duration::new(seconds, nanoseconds), bytes }
            }).collect();
            for frame in &frames {
                writer.write(1, frame.at, &frame.bytes, Some("why")).expect("written");
            }
            let file = writer.finish().expect("written");
            prop_assert_eq!(all(&file).expect("read"), frames);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(
            pcapng in any::<bool>(),
            cut in 0usize..400,
            damage in prop::collection::vec((0usize..400, any::<u8>()), 0..4),
        ) {
            let writer = if pcapng {
                CaptureWriter::pcapng(Vec::new(), &["eth0"])
            } else {
                CaptureWriter::pcap(Vec::new())
            };
            let mut writer = writer.expect("written");
            for _ in 0..3 {
                writer.write(0, Duration::from_secs(1), &[7; 60], Some("why")).expect("written");
            }
            let mut file = writer.finish().expect("written");
            for (place, byte) in damage {
                if let Some(damaged) = file.get_mut(place) {
                    *damaged = byte;
                }
            }
            file.truncate(cut);
            // The claim is that this returns.
            let _ = all(&file);
        }
    }

    #[test]
    fn times_are_in_the_units_the_file_says() {
        let interface = |options| InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options,
        };
        let resolution = |r| vec![InterfaceDescriptionOption::IfTsResol(r)];
        assert_eq!(time(&interface(vec![]), 1_500_000), Duration::from_millis(1500));
        assert_eq!(time(&interface(resolution(3)), 1_500), Duration::from_millis(1500));
        assert_eq!(time(&interface(resolution(0x81)), 3), Duration::from_millis(1500));
        assert_eq!(time(&interface(resolution(0xff)), 3), Duration::ZERO);
    }

    #[test]
    fn other_links_are_refused() {
        let header = PcapHeader { datalink: DataLink::RAW, ..native_header() };
        let file = PcapWriter::with_header(Vec::new(), header).expect("written").into_writer();
        let said = all(&file).expect_err("refused").to_string();
        assert!(said.contains("Ethernet"), "{said}");
    }
}
