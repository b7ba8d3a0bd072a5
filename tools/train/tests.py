"""Quick checks of the recipe that need no sound font and no training: `python -m unittest tools.train.tests`."""

from __future__ import annotations

import tempfile
import unittest
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import EncodecModel

from .captions import captions
from .codec import codec_config, fit_codebooks
from .compose import GENRES, HIGHEST, INSTRUMENTS, LONGEST, LOWEST, OCTAVE_BELOW, PHRASE, ROLLED, STROKE, compose
from .evaluate import chroma_similarity, faults
from .judge import COUNT, Classifier, Features, joined
from .listener import Listener, coefficients, install, latents
from .lm import Batches, LanguageModel, by_codebook, delayed, grown, look_back, orthogonal, sharpen
from .notes import ATTACK, LEADS, PITCHES, played
from .render import plan, varied, without_rumble
from .settings import Settings, load
from .start import BINS, NOTE_WIDTH, start_linear


def tone(frequencies, seconds=1.0, rate=32000) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return sum(np.sin(2 * np.pi * f * time + i) for i, f in enumerate(frequencies)).astype(np.float32) * 0.1


class Composing(unittest.TestCase):
    def test_one_seed_gives_one_piece(self):
        one, two = (compose((1, 2, 3), "jazz", "flute", "band", 8.0) for _ in range(2))
        self.assertEqual(one.notes, two.notes)
        self.assertNotEqual(one.notes, compose((1, 2, 4), "jazz", "flute", "band", 8.0).notes)

    def test_all_instruments_play_the_same_melody_in_range(self):
        for genre in GENRES:
            pieces = [compose((7, 0), genre, name, "solo", 8.0) for name in INSTRUMENTS if name not in ROLLED]
            octaves = [12 if name in OCTAVE_BELOW else 0 for name in INSTRUMENTS if name not in ROLLED]
            melodies = {tuple(replace(n, pitch=n.pitch + octave) for n in p.notes) for p, octave in zip(pieces, octaves)}
            self.assertEqual(len(melodies), 1)
            self.assertTrue(all(abs(note.start * 50 - round(note.start * 50)) < 1e-9 for note in pieces[0].notes))
            for note in pieces[0].notes:
                self.assertTrue(LOWEST <= note.pitch <= HIGHEST and note.start < 8)

    def test_a_roll_takes_the_time_and_the_pitch_of_the_notes_it_stands_for(self):
        for genre in GENRES:
            held, rolled = (compose((7, 0), genre, name, "solo", 8.0, loop=True).notes for name in ("piano", "xylophone"))
            sounding = [{(frame, n.pitch) for n in notes for frame in range(round(n.start * 50), round((n.start + n.length) * 50))} for notes in (held, rolled)]
            self.assertEqual(*sounding)
            self.assertTrue(all(2.9 / 50 < n.length < 1.5 * STROKE + 1e-6 for n in rolled), [n.length for n in rolled])
            self.assertGreater(len(rolled), len(held))

    def test_a_loop_plays_its_phrase_again_to_the_frame_in_the_same_time_in_every_piece(self):
        for genre in GENRES:
            for seed in range(4):
                piece = compose((8, seed), genre, "flute", "band", 8.0, loop=True)
                phrases = [{(round(n.start - i * PHRASE, 3), n.channel, n.pitch) for n in piece.notes if 0 <= n.start - i * PHRASE + 1e-6 < PHRASE} for i in range(4)]
                self.assertGreater(len(phrases[0]), 3)
                self.assertTrue(all(phrase == phrases[0] for phrase in phrases))
                self.assertTrue(all(note.length <= LONGEST for note in piece.notes if note.channel == 0))

    def test_the_bands_of_all_genres_play_the_same_lead(self):
        pieces = [compose((9, 1), "rock", "flute", "band", 8.0, loop=True, band=band) for band in GENRES]
        self.assertEqual(len({tuple(n for n in piece.notes if n.channel == 0) for piece in pieces}), 1)
        self.assertEqual([piece.labels["genre"] for piece in pieces], list(GENRES))

    def test_a_round_has_every_instrument_with_one_melody_and_every_genre_with_one_loop(self):
        clips = plan("train", Settings(rounds={"train": 1}))
        self.assertEqual([clip["instrument"] for clip in clips if clip["kind"] == "solo"], list(INSTRUMENTS))
        self.assertEqual([clip["band"] for clip in clips if clip["kind"] == "band"], 2 * list(GENRES))

    def test_a_varied_piece_has_the_same_notes_chords_and_labels_by_other_programs(self):
        piece = compose((9, 1), "rock", "flute", "band", 8.0, loop=True)
        other = varied(piece, np.random.default_rng(0))
        self.assertEqual([(n.start, n.pitch) for n in other.notes], [(n.start, n.pitch) for n in piece.notes])
        self.assertEqual((other.chords, other.labels), (piece.chords, piece.labels))
        self.assertNotEqual(other.programs, piece.programs)

    def test_captions_follow_the_labels(self):
        labels = compose((5,), "rock", "violin", "band", 8.0).labels
        for text in captions(labels, np.random.default_rng(0), 40):
            self.assertFalse(any(other in text for other in ("jazz", "techno", "classical")), text)

    def test_a_longer_plan_begins_with_the_shorter_one_and_splits_share_no_melody(self):
        settings = Settings(rounds={"train": 2, "heldout": 2})
        short = plan("train", settings)
        long = plan("train", replace(settings, rounds={"train": 3, "heldout": 2}))
        self.assertEqual(long[: len(short)], short)
        seeds = [{tuple(clip["seed"]) for clip in plan(split, settings)} for split in ("train", "heldout")]
        self.assertFalse(seeds[0] & seeds[1])


class Codec(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(0)
        self.codec = EncodecModel(codec_config(Settings(codebook_size=64)))
        rng = np.random.default_rng(0)
        self.audio = np.stack([tone(rng.uniform(200, 900, 3)) for _ in range(12)])
        start_linear(self.codec, self.audio, rng)

    def test_the_geometry_is_the_official_one(self):
        config = self.codec.config
        self.assertEqual((config.frame_rate, config.num_quantizers, int(np.prod(config.upsampling_ratios))), (50, 4, 640))

    @torch.no_grad()
    def test_the_linear_start_passes_low_tones(self):
        sound = torch.from_numpy(tone((330, 440)))
        made = self.codec.decoder(self.codec.encoder(sound[None, None]))[0, 0]
        self.assertEqual(made.shape, sound.shape)
        self.assertGreater(float(torch.corrcoef(torch.stack([made, sound]))[0, 1]), 0.8)

    @torch.no_grad()
    def test_the_encoder_survives_float16(self):
        sound = torch.from_numpy(tone((330, 440)))[None, None]
        exact = self.codec.encoder(sound)
        for parameter in self.codec.encoder.parameters():
            parameter.copy_(parameter.half())
        self.assertTrue(torch.equal(self.codec.encoder(sound), exact))

    @torch.no_grad()
    def test_codebooks_leave_less_and_less_and_transformers_uses_them_alike(self):
        found = self.codec.encoder(torch.from_numpy(self.audio)[:, None])
        vectors = found.permute(0, 2, 1).reshape(-1, found.shape[1])
        errors = fit_codebooks(vectors, [layer.codebook.embed for layer in self.codec.quantizer.layers], torch.Generator().manual_seed(0))
        self.assertTrue(all(later < earlier for earlier, later in zip(errors[:3], errors[1:4])))
        kept = self.codec.quantizer.decode(self.codec.quantizer.encode(found))
        self.assertLess(float((kept - found).pow(2).sum() / found.pow(2).sum()), errors[3] * 1.05)


def small_model(layers: int) -> LanguageModel:
    """A language model of few and narrow layers, with the tokenizer of the checkpoint that ships."""
    with tempfile.TemporaryDirectory() as folder:
        demo = str(Path(__file__).parents[2] / "weights" / "demo")
        return LanguageModel(Settings(work=Path(folder), start_from=demo, width=64, text_width=32, layers=layers, codec_filters=4))


class Notes(unittest.TestCase):
    def test_the_lead_is_the_same_by_every_instrument_and_struck_where_its_notes_begin(self):
        settings = Settings()
        for kind in ("solo", "band"):
            clip = {"seed": [4, 1], "genre": "rock", "kind": kind, "loop": True}
            leads = [played({**clip, "instrument": name}, settings)[0] for name in INSTRUMENTS]
            self.assertTrue(all((one == leads[0]).all() for one in leads))
            expected = np.zeros(settings.frames, int)
            for note in compose((4, 1), "rock", "flute", kind, 8.0, loop=True).notes:
                if note.channel == 0:
                    begin, end = round(note.start * 50), min(round((note.start + note.length) * 50), settings.frames)
                    expected[begin:end] = note.pitch - LOWEST + 1 + PITCHES * (np.arange(begin, end) < begin + ATTACK)
            self.assertEqual(leads[0].tolist(), expected.tolist())
            self.assertGreater(len(set(leads[0].tolist())), 3)

    def test_chords_are_the_same_by_every_band_and_their_roots_what_the_bass_begins_with(self):
        settings = Settings()
        for seed in range(4):
            clip = {"seed": [8, seed], "genre": "jazz", "instrument": "flute", "loop": True}
            chords = [played({**clip, "kind": "band", "band": band}, settings)[1] for band in GENRES]
            self.assertTrue(all((one == chords[0]).all() for one in chords))
            self.assertTrue(1 <= len(set(chords[0].tolist())) <= 2 and chords[0].min() >= 1)
            low = [n for n in compose((8, seed), "jazz", "flute", "band", 8.0, loop=True, band="jazz").notes if n.channel == 2 and n.start == 0]
            self.assertEqual([n.pitch % 12 for n in low], [chords[0][0] - 1])
            self.assertEqual(set(played({**clip, "kind": "solo"}, settings)[1].tolist()), {0})


class Hearing(unittest.TestCase):
    """Of a codec whose listener has not been trained."""

    @classmethod
    def setUpClass(cls):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        cls.codec = EncodecModel(codec_config(Settings()))
        audio = np.stack([tone(rng.uniform(200, 900, 3)) for _ in range(30)])
        start_linear(cls.codec, audio, rng)
        books = [layer.codebook.embed for layer in cls.codec.quantizer.layers]
        with torch.no_grad():
            latent = torch.cat(list(cls.codec.encoder(torch.from_numpy(audio)[:, None]).permute(0, 2, 1)))[:, :-NOTE_WIDTH]
            fit_codebooks(latent, [book.zero_()[:, :-NOTE_WIDTH] for book in books[1:]], torch.Generator().manual_seed(0))
        cls.sound = tone((330, 440, 87), 2)

    @torch.no_grad()
    def test_coefficients_are_what_the_convolutions_make_edges_included(self):
        state = torch.from_numpy(self.sound)[None, None]
        for layer in self.codec.encoder.layers[:13]:
            state = layer(state)
        wrong = coefficients(self.codec.encoder, self.sound) - state[0, :BINS].T
        self.assertLess(float(wrong.abs().max() / state.abs().max()), 1e-4)

    @torch.no_grad()
    def test_the_first_codebook_says_what_the_listener_hears_and_the_others_what_they_did_before(self):
        wave = torch.from_numpy(self.sound)[None, None]
        before = self.codec.encoder(wave)
        listener = Listener(self.codec.encoder.layers[13].lstm.hidden_size)
        install(listener, self.codec)
        after = self.codec.encoder(wave)
        self.assertTrue(torch.equal(after[:, :-NOTE_WIDTH], before[:, :-NOTE_WIDTH]))
        codes = self.codec.quantizer.encode(after)[:, 0]  # [K, F]
        lead, chord = (said[0].argmax(-1) for said in listener(coefficients(self.codec.encoder, self.sound)[None]))  # [F]
        heard = lead + LEADS * chord
        self.assertGreater(len(heard.unique()), 1)
        # Float16 may turn a close call of a listener that was not trained.
        self.assertGreater(float((codes[0] == heard).float().mean()), 0.9)
        others = self.codec.quantizer.encode(torch.cat([before[:, :-NOTE_WIDTH], 0 * before[:, -NOTE_WIDTH:]], 1))[1:, 0]
        self.assertTrue(torch.equal(codes[1:], others))
        self.assertLess(float((latents(self.codec.encoder, self.sound) - after).abs().max()), 0.05)


class LanguageModelParts(unittest.TestCase):
    def test_codebooks_are_delayed_by_one_more_each(self):
        codes = torch.arange(12).reshape(1, 4, 3)
        self.assertEqual(delayed(codes, 99)[0, 2].tolist(), [99, 99, 99, 6, 7, 8, 99])
        self.assertEqual(delayed(codes, 99)[0, 0].tolist(), [99, 0, 1, 2, 99, 99, 99])

    def test_frames_count_by_their_weights_and_evenly_wrong_codes_as_they_are(self):
        weights = torch.ones(2, 50)
        weights[0, :10] = 4
        self.assertTrue(torch.allclose(by_codebook(torch.full((2, 4, 50), 1.5), weights), torch.full((4,), 1.5)))
        late, early = torch.zeros(2, 4, 50), torch.zeros(2, 4, 50)
        late[0, :, -1], early[0, :, 0] = 1, 1
        self.assertAlmostEqual(float(by_codebook(early, weights)[0] / by_codebook(late, weights)[0]), 4, places=4)

    def test_a_takeover_goes_on_in_the_same_place_of_a_clip_with_the_same_notes(self):
        batches = Batches.__new__(Batches)
        batches.settings = Settings()
        rows = [compose((3, piece), "rock", name, "solo", 8.0, loop=True).labels | {"seed": [3, piece]} for piece in (0, 1) for name in INSTRUMENTS]
        batches.labels, batches.codes = rows, np.arange(16)[:, None, None] * 1000 + np.tile(np.arange(400) % 96, (16, 4, 1))
        batches.alike = {("solo", 3, piece): list(range(8 * piece, 8 * piece + 8)) for piece in (0, 1)}
        texts = []
        batches.tokenizer = type("Words", (), {"encode": lambda self, text: texts.append(text) or type("Ids", (), {"ids": [1]})})()
        for times in (1, 2):
            codes, _, weights = batches.taken_over(np.random.default_rng(1), 11, times, batches.codes.__getitem__)
            clips = codes[0] // 1000
            after = np.flatnonzero(np.diff(clips)) + 1
            counted = np.unique(np.concatenate([np.arange(turn, min(turn + 96, 400)) for turn in after]))
            self.assertEqual(np.flatnonzero(weights > 1).tolist(), counted.tolist())
            self.assertEqual((clips[0], (np.diff(clips) != 0).sum()), (11, times))
            self.assertTrue((clips >= 8).all() and (codes % 1000 == np.arange(400) % 96).all())
        self.assertTrue(all(name not in texts[1] for name in INSTRUMENTS), texts)

    def test_a_patched_bar_comes_again_and_has_the_same_parts_by_every_instrument(self):
        batches = Batches.__new__(Batches)
        batches.settings = Settings()
        batches.labels = [{"kind": "solo", "instrument": name, "seed": [piece]} for piece in range(50) for name in INSTRUMENTS]
        batches.codes = np.arange(400)[:, None, None] * 1000 + np.tile(np.arange(400) % 96, (400, 4, 1))
        batches.pieces = {"solo": [("solo", piece) for piece in range(50)]}
        batches.sounding = {(("solo", row["seed"][0]), row["instrument"]): clip for clip, row in enumerate(batches.labels)}
        rng, changed, moved = np.random.default_rng(2), 0, 0
        for _ in range(20):
            codes_of = batches.bars(rng, "solo")
            piano, violin = codes_of(0)[0], codes_of(1)[0]
            self.assertTrue((piano[:304] == piano[96:]).all())
            self.assertTrue((violin - piano == 1000).all())
            changed += len(set(piano // 1000)) > 1
            moved += not (piano % 1000 == np.arange(400) % 96).all()
        self.assertGreater(changed, 8)
        self.assertTrue(3 < moved < changed, (moved, changed))

    def test_layers_put_before_others_change_nothing_yet(self):
        torch.manual_seed(0)
        small, large = (small_model(layers) for layers in (1, 2))
        large.text_encoder.load_state_dict(small.text_encoder.state_dict())
        large.enc_to_dec_proj.load_state_dict(small.enc_to_dec_proj.state_dict())
        large.decoder.load_state_dict(grown(small.decoder.state_dict(), 1))
        text, codes = torch.tensor([[5, 6, 1]]), torch.randint(0, 1024, (1, 4, 60))
        with torch.no_grad():
            self.assertTrue(torch.allclose(*(model.eval()(text, text * 0 + 1, codes) for model in (small, large)), atol=1e-5))

    def test_heads_look_back_where_they_are_told_to(self):
        torch.manual_seed(0)
        model = small_model(1)
        codes = torch.randint(0, 1024, (8, 4, 60))
        before = model.decoder.model.decoder.layers[0].self_attn.v_proj.weight.clone()
        look_back(model.decoder, (20, 7))
        self.assertGreater(sharpen(model, (20, 7), codes, steps=150), 0.5)
        self.assertTrue(torch.equal(model.decoder.model.decoder.layers[0].self_attn.v_proj.weight, before))

    def test_orthogonal_evens_out_singular_values(self):
        torch.manual_seed(0)
        for shape in ((24, 80), (80, 24)):
            values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
            self.assertTrue(0.5 < float(values.min()) and float(values.max()) < 1.4)


class Measures(unittest.TestCase):
    def test_several_classifiers_joined_say_the_mean_of_what_they_say(self):
        torch.manual_seed(4)
        voters = [Classifier(3).eval() for _ in range(4)]
        centre, scale, features = torch.randn(COUNT), torch.rand(COUNT) + 0.5, torch.randn(7, COUNT)
        for voter in voters:
            voter.centre.copy_(centre)
            voter.scale.copy_(scale)
        wanted = torch.stack([voter(features) for voter in voters]).mean(0)
        torch.testing.assert_close(joined(voters)(features), wanted, atol=1e-5, rtol=1e-5)

    def test_chroma_tells_a_tone_from_its_neighbour_but_not_from_its_octave(self):
        a, octave, neighbour = tone((440,)), tone((880,)), tone((466.16,))
        self.assertGreater(chroma_similarity(a, octave), 0.95)
        self.assertLess(chroma_similarity(a, neighbour), 0.5)

    def test_faults_are_found(self):
        moving = np.arange(400).reshape(4, 100)
        self.assertEqual(faults(tone((440,), 2), moving), [])
        self.assertEqual(faults(np.zeros(64000, np.float32), moving), ["silence"])
        self.assertEqual(faults(tone((440,), 2) * 30, moving), ["clipping"])
        self.assertEqual(faults(tone((440,), 2), np.zeros((4, 100), int)), ["stuck"])

    def test_the_low_cut_takes_rumble_and_leaves_the_lowest_lead(self):
        level = lambda f: float(np.std(without_rumble(tone((f,)), 32000, "flute")) / np.std(tone((f,))))
        self.assertLess(level(50), 0.01)
        self.assertGreater(level(262), 0.9)

    def test_features_do_not_depend_on_loudness(self):
        compute, sound = Features(), tone((300, 600, 1200), 2)
        self.assertEqual(compute(sound).shape, (COUNT,))
        self.assertLess(float((compute(sound) - compute(sound * 0.3)).abs().max()), 0.05)


class SettingsFile(unittest.TestCase):
    def test_overrides_are_kept_and_unknown_names_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            load(Path(folder), {"lm_minutes": "7"})
            self.assertEqual(load(Path(folder), {}).lm_minutes, 7)
            with self.assertRaises(SystemExit):
                load(Path(folder), {"lm_minute": "7"})


if __name__ == "__main__":
    unittest.main()
