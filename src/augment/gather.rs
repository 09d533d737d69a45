//! The inner loop of nearest resampling in 16.16 fixed point: each output pixel reads one source pixel.
//!
//! One loop is compiled for every processor and again for AVX2; a second loop uses AVX-512. The loop is chosen when the
//! program runs, and all compute the same integers.

/// A map from output to source pixels in 16.16 fixed point. Sums wrap around, as in 32-bit registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fixed {
    /// The source position, x and y, of the first output pixel.
    pub origin: [i32; 2],
    /// The change of the source position for one step to the right in the output.
    pub right: [i32; 2],
    /// The change of the source position for one step down in the output.
    pub down: [i32; 2],
}

/// The number of zeros that follow a source image. The first stands for positions outside the image; the others are
/// needed because vector code reads four bytes for each pixel.
pub const PADDING: usize = 3;

/// Positions from this one on are negative in 16.16 fixed point, and therefore outside.
const FIXED_PIXELS: usize = 1 << 15;

/// Resamples `source`, which has `height * width` pixels and [`PADDING`] zeros, into `out`, which has `height * width`
/// pixels. Positions outside the source give black.
///
/// # Panics
/// If the lengths disagree with the sides, or if a side is 0.
pub fn gather(source: &[u8], height: usize, width: usize, map: &Fixed, out: &mut [u8]) {
    assert!(height > 0 && width > 0, "an image has pixels");
    assert!(source.len() == height * width + PADDING && out.len() == height * width, "the size of an image");
    #[cfg(target_arch = "x86_64")]
    {
        let small = height.max(width) < FIXED_PIXELS;
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl");
        if small && avx512 {
            // SAFETY: the processor has the features that the function is compiled for; sides and lengths
            // meet its conditions.
            return unsafe { gather_avx512(source, height, width, map, out) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the features that the function is compiled for; it has no other condition.
            return unsafe { gather_avx2(source, height, width, map, out) };
        }
    }
    gather_portable(source, height, width, map, out);
}

/// The portable loop, compiled for AVX2. It is twice as fast, because one instruction computes eight indices.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn gather_avx2(source: &[u8], height: usize, width: usize, map: &Fixed, out: &mut [u8]) {
    gather_portable(source, height, width, map, out);
}

/// First computes the indices of several pixels, so that the compiler vectorises the computation,
/// then reads the pixels.
#[inline(always)]
fn gather_portable(source: &[u8], height: usize, width: usize, map: &Fixed, out: &mut [u8]) {
    // measured: 16 and 64 take one and a half times as long
    const AT_ONCE: usize = 32;
    let outside = (height * width) as u32;
    // positions are compared as unsigned numbers, in which negative ones exceed every side
    let [wide, high] = [width, height].map(|side| (side.min(FIXED_PIXELS) as u32) << 16);
    let [right_x, right_y] = map.right.map(|step| step as u32);
    let [mut row_x, mut row_y] = map.origin.map(|position| position as u32);
    let mut indices = [0; AT_ONCE];
    for line in out.chunks_exact_mut(width) {
        let (mut first_x, mut first_y) = (row_x, row_y);
        for pixels in line.chunks_mut(AT_ONCE) {
            for (i, index) in indices.iter_mut().enumerate() {
                let x = first_x.wrapping_add(right_x.wrapping_mul(i as u32));
                let y = first_y.wrapping_add(right_y.wrapping_mul(i as u32));
                let inside = (x < wide) & (y < high);
                let within = (y >> 16).wrapping_mul(width as u32).wrapping_add(x >> 16);
                *index = if inside { within } else { outside };
            }
            for (pixel, &index) in pixels.iter_mut().zip(&indices) {
                *pixel = source[index as usize];
            }
            first_x = first_x.wrapping_add(right_x.wrapping_mul(AT_ONCE as u32));
            first_y = first_y.wrapping_add(right_y.wrapping_mul(AT_ONCE as u32));
        }
        row_x = row_x.wrapping_add(map.down[0] as u32);
        row_y = row_y.wrapping_add(map.down[1] as u32);
    }
}

/// Resamples sixteen pixels at a time.
///
/// # Safety
/// The processor must have these features, `source` must have `height * width + PADDING` bytes and `out`
/// `height * width`, and both sides must be from 1 to 32,767.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn gather_avx512(source: &[u8], height: usize, width: usize, map: &Fixed, out: &mut [u8]) {
    use std::arch::x86_64::{
        _mm_mask_storeu_epi8, _mm512_add_epi32, _mm512_and_si512, _mm512_cmplt_epu32_mask, _mm512_cvtepi32_epi8,
        _mm512_madd_epi16, _mm512_mask_cmplt_epu32_mask, _mm512_mask_i32gather_epi32, _mm512_mullo_epi32,
        _mm512_or_si512, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512, _mm512_srli_epi32,
    };

    let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let ramp = map.right.map(|step| _mm512_mullo_epi32(lanes, _mm512_set1_epi32(step)));
    let stride = map.right.map(|step| _mm512_set1_epi32(step.wrapping_mul(16)));
    // positions are compared as unsigned numbers, in which negative ones exceed every side
    let (wide, high) = (_mm512_set1_epi32((width as i32) << 16), _mm512_set1_epi32((height as i32) << 16));
    let whole = _mm512_set1_epi32(0xffff_0000_u32 as i32);
    // the 16-bit halves (x, y) are multiplied by (1, width) and summed, which gives an index
    let weights = _mm512_set1_epi32((width as i32) << 16 | 1);
    let [mut row_x, mut row_y] = map.origin;
    for line in out.chunks_exact_mut(width) {
        let mut x = _mm512_add_epi32(_mm512_set1_epi32(row_x), ramp[0]);
        let mut y = _mm512_add_epi32(_mm512_set1_epi32(row_y), ramp[1]);
        for pixels in line.chunks_mut(16) {
            let inside = _mm512_mask_cmplt_epu32_mask(_mm512_cmplt_epu32_mask(x, wide), y, high);
            let halves = _mm512_or_si512(_mm512_srli_epi32::<16>(x), _mm512_and_si512(y, whole));
            let index = _mm512_madd_epi16(halves, weights);
            let black = _mm512_setzero_si512();
            // SAFETY: `inside` leaves only lanes with x below `width` and y below `height`. Their index is below
            // `height * width`, and the four bytes read from there end within the padding.
            let found = unsafe { _mm512_mask_i32gather_epi32::<1>(black, inside, index, source.as_ptr().cast()) };
            let used = ((1_u32 << pixels.len()) - 1) as u16;
            // SAFETY: the mask leaves exactly the bytes of `pixels`.
            unsafe { _mm_mask_storeu_epi8(pixels.as_mut_ptr().cast(), used, _mm512_cvtepi32_epi8(found)) };
            x = _mm512_add_epi32(x, stride[0]);
            y = _mm512_add_epi32(y, stride[1]);
        }
        row_x = row_x.wrapping_add(map.down[0]);
        row_y = row_y.wrapping_add(map.down[1]);
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::rng::stream;

    /// Resamples one pixel at a time, by the definition.
    fn gather_plain(source: &[u8], height: usize, width: usize, map: &Fixed) -> Vec<u8> {
        let position = |axis: usize, x: usize, y: usize| {
            let (right, down) = (map.right[axis].wrapping_mul(x as i32), map.down[axis].wrapping_mul(y as i32));
            map.origin[axis].wrapping_add(right).wrapping_add(down) >> 16
        };
        let pixel = |n: usize| {
            let (x, y) = (position(0, n % width, n / width), position(1, n % width, n / width));
            let inside = (0..width as i32).contains(&x) && (0..height as i32).contains(&y);
            if inside { source[y as usize * width + x as usize] } else { 0 }
        };
        (0..height * width).map(pixel).collect()
    }

    type Gather = fn(&[u8], usize, usize, &Fixed, &mut [u8]);

    /// The maps magnify, shrink, turn, leave the image and wrap around, on images of every width up to 70
    /// and some wider ones.
    #[test]
    fn every_loop_gives_the_pixels_of_the_definition() {
        let mut loops: Vec<Gather> = vec![gather, gather_portable];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the features that the function is compiled for; it has no other condition.
            loops.push(|source, height, width, map, out| unsafe { gather_avx2(source, height, width, map, out) });
        }
        let mut rng = stream(1, "gather", 0, 0);
        for case in 0..4000 {
            let (height, width) = (1 + case % 37, if case % 50 == 0 { 300 + case / 50 } else { 1 + case % 70 });
            let mut source: Vec<u8> = (0..height * width).map(|_| rng.next_u32() as u8).collect();
            source.extend([0; PADDING]);
            let spread = [17, 18, 20, 24, 32][case % 5];
            let mut number = || (rng.next_u32() as i32) >> (32 - spread);
            let [origin, right, down] = [(); 3].map(|()| [number(), number()]);
            let map = Fixed { origin, right, down };
            let expected = gather_plain(&source, height, width, &map);
            for gather in &loops {
                let mut out = vec![7; height * width];
                gather(&source, height, width, &map, &mut out);
                assert!(out == expected, "{height} x {width}, {map:?}");
            }
        }
    }

    #[test]
    fn the_map_that_changes_nothing_copies_an_image() {
        let mut source: Vec<u8> = (1..=120).collect();
        source.extend([0; PADDING]);
        let mut out = [0; 120];
        gather(&source, 6, 20, &Fixed { origin: [32768, 32768], right: [65536, 0], down: [0, 65536] }, &mut out);
        assert_eq!(out[..], source[..120]);
    }

    #[test]
    fn sides_beyond_sixteen_bits_are_resampled_as_far_as_fixed_point_goes() {
        let mut source = vec![50; 40_000];
        source.extend([0; PADDING]);
        let mut out = vec![1; 40_000];
        gather(&source, 1, 40_000, &Fixed { origin: [0, 0], right: [65536, 0], down: [0, 65536] }, &mut out);
        assert!(out[..32_768].iter().all(|&grey| grey == 50) && out[32_768..].iter().all(|&grey| grey == 0));
    }
}
