//! The contents of a ledger file: a zstd frame of the XDR of a `LedgerCloseMetaBatch`.

use std::cell::RefCell;
use std::io::{Cursor, Read};

use bytes::Bytes;
use stellar_xdr::{LedgerCloseMeta, LedgerCloseMetaBatch, Limited, Limits, ReadXdr, WriteXdr};
use zstd::zstd_safe::{self, DCtx, ResetDirective};

use super::RawLedger;
use super::layout::Span;

/// More than this in one file is taken for damage rather than for ledgers.
const MAX_BYTES: u64 = 1 << 30;

/// Nesting deeper than this is taken for damage.
pub const MAX_DEPTH: u32 = 500;

/// Takes the file of `span` apart. Every ledger is decoded once, so that damage shows here, where
/// the file's name is known, rather than further down the pipeline.
///
/// # Errors
/// A reason to call the file damaged.
pub fn decode(file: &[u8], span: Span) -> Result<Vec<RawLedger>, String> {
    let xdr = Bytes::from(unpack(file).map_err(|error| format!("zstd: {error}"))?);

    let mut reader = Limited::new(
        Cursor::new(xdr.clone()),
        Limits {
            depth: MAX_DEPTH,
            len: xdr.len(),
        },
    );
    let mut number = |what| {
        u32::read_xdr(&mut reader)
            .map_err(|error| format!("the XDR ends within the {what}: {error}"))
    };
    let found = Span {
        first: number("first sequence")?,
        last: number("last sequence")?,
    };
    // A file's name gives the stretch it is for; the first file of a network begins later.
    if found.last != span.last || found.first < span.first || found.first > found.last {
        let Span { first, last } = span;
        let (from, to) = (found.first, found.last);
        return Err(format!(
            "it should hold ledgers {first} to {last} and says {from} to {to}"
        ));
    }
    let count = number("number of ledgers")?;
    if count != found.last - found.first + 1 {
        let (from, to) = (found.first, found.last);
        return Err(format!(
            "it should hold ledgers {from} to {to} and has {count} of them"
        ));
    }
    let mut ledgers = Vec::with_capacity(count.min(10_000) as usize);
    for sequence in found.first..=found.last {
        let start = position(&reader);
        let meta = LedgerCloseMeta::read_xdr(&mut reader)
            .map_err(|error| format!("the XDR of ledger {sequence}: {error}"))?;
        let inside = sequence_of(&meta);
        if inside != sequence {
            return Err(format!(
                "ledger {inside} is in the place of ledger {sequence}"
            ));
        }
        ledgers.push(RawLedger {
            sequence,
            xdr: xdr.slice(start..position(&reader)),
        });
    }
    let rest = xdr.len() - position(&reader);
    if rest > 0 {
        return Err(format!("{rest} bytes follow the last ledger"));
    }
    Ok(ledgers)
}

/// What a zstd file holds. Making what zstd works with takes longer than a small file, so each thread
/// keeps its own.
fn unpack(file: &[u8]) -> std::io::Result<Vec<u8>> {
    thread_local! {
        static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
    }
    CONTEXT.with_borrow_mut(|context| {
        // A damaged file may have left it in the middle of a frame.
        let ready = context.reset(ResetDirective::SessionOnly);
        ready.map_err(|code| std::io::Error::other(zstd_safe::get_error_name(code)))?;
        let mut held = Vec::with_capacity(file.len().saturating_mul(4));
        let decoder = zstd::Decoder::with_context(file, context);
        decoder.take(MAX_BYTES).read_to_end(&mut held)?;
        Ok(held)
    })
}

/// How far a reader has come.
fn position(reader: &Limited<Cursor<Bytes>>) -> usize {
    usize::try_from(reader.inner.position()).expect("a position in memory fits its address space")
}

/// The sequence number inside a ledger.
pub fn sequence_of(meta: &LedgerCloseMeta) -> u32 {
    match meta {
        LedgerCloseMeta::V0(meta) => meta.ledger_header.header.ledger_seq,
        LedgerCloseMeta::V1(meta) => meta.ledger_header.header.ledger_seq,
        LedgerCloseMeta::V2(meta) => meta.ledger_header.header.ledger_seq,
    }
}

/// Makes the file of `batch`, with a checksum.
///
/// # Errors
/// The batch can't be written as XDR, or zstd refuses.
pub fn encode(batch: &LedgerCloseMetaBatch) -> Result<Vec<u8>, String> {
    let xdr = batch
        .to_xdr(Limits::none())
        .map_err(|error| error.to_string())?;
    let compress = || {
        let mut encoder = zstd::Encoder::new(Vec::new(), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        encoder.include_checksum(true)?;
        std::io::Write::write_all(&mut encoder, &xdr)?;
        encoder.finish()
    };
    compress().map_err(|error: std::io::Error| error.to_string())
}
