"""Archives of speech corpora as lhotse's downloaders fetch them: the members of the real ones, with tiny sounds."""

import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field

import numpy as np
import soundfile

Members = dict[str, object]
"""Content by path: text, a SOUND, or the members of an archive inside the archive."""
SOUND = object()


@dataclass(frozen=True)
class FakeCorpus:
    """Archives of a corpus by file name, and the parameters that select them."""

    archives: dict[str, Members | str]
    download: dict = field(default_factory=dict)
    process: dict = field(default_factory=dict)
    prepared: str | None = None
    """Folder to prepare, below the one that the downloader returns."""


def _sound() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 400), 8000, format="WAV", subtype="PCM_16")
    return file.getvalue()


SOUND_BYTES = _sound()


def pack(name: str, members: Members | str) -> bytes:
    """Return the bytes of an archive, or of a plain file."""
    if isinstance(members, str):
        return members.encode()
    packed = io.BytesIO()
    if name.endswith((".zip", "_partaa")):
        with zipfile.ZipFile(packed, "w") as archive:
            for path, content in members.items():
                archive.writestr(path, _bytes(path, content))
    else:
        mode = "w:bz2" if name.endswith(".bz2") else "w:gz"
        with tarfile.open(fileobj=packed, mode=mode) as tar:
            for path, content in members.items():
                member = tarfile.TarInfo(path)
                data = _bytes(path, content)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def _bytes(path: str, content: object) -> bytes:
    return SOUND_BYTES if content is SOUND else pack(path, content)


def _speakers(prefix: str, suffix: str, speakers: list[str]) -> dict[str, Members]:
    """Return the archive of each speaker of CMU Arctic or CMU Indic."""
    return {
        f"{prefix}{name}{suffix}.tar.bz2": {
            f"{prefix}{name}{suffix}/wav/arctic_a0001.wav": SOUND,
            f"{prefix}{name}{suffix}/etc/txt.done.data": '( arctic_a0001 "Author of the danger trail." )\n',
        }
        for name in speakers
    }


def _libritts(name: str) -> dict[str, Members]:
    folder = f"{name}/dev-clean/84/121123"
    return {
        "dev-clean.tar.gz": {
            f"{folder}/84_121123_000007_000001.wav": SOUND,
            f"{folder}/84_121123.trans.tsv": "84_121123_000007_000001\tMaximilian.\tMaximilian.\n",
            f"{folder}/84_121123.book.tsv": "84_121123_000007_000001\tMaximilian.\tMaximilian.\t21.0\n",
            f"{name}/SPEAKERS.txt": ";ID\n84 | F | dev-clean | 8.0 | Christie\n",
        }
    }


_TSV = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment\n"
_RTTM = "SPEAKER {0} 1 0.01 0.03 <NA> <NA> spk1 <NA> <NA>\n"

CORPORA = {
    "adept": FakeCorpus(
        {
            "ADEPT.zip": {
                "adept_prompts.json": "{}",
                "wav_44khz/emotion/anger/ad00_0001.wav": SOUND,
                "txt/emotion/anger/ad00_0001.txt": "We went.",
            }
        }
    ),
    "aidatatang_200zh": FakeCorpus(
        {
            "aidatatang_200zh.tgz": {
                **{
                    f"aidatatang_200zh/corpus/{part}/G000{n}.tar.gz": {f"G000{n}/T0055G000{n}S0001.wav": SOUND}
                    for n, part in enumerate(("train", "dev", "test"))
                },
                "aidatatang_200zh/transcript/aidatatang_200_zh_transcript.txt": "".join(
                    f"T0055G000{n}S0001 以后\n" for n in range(3)
                ),
            }
        }
    ),
    "aishell": FakeCorpus(
        {
            "data_aishell.tgz": {
                **{
                    f"data_aishell/wav/S000{n}.tar.gz": {f"{part}/S000{n}/BAC009S000{n}W0122.wav": SOUND}
                    for n, part in enumerate(("train", "dev", "test"))
                },
                "data_aishell/transcript/aishell_transcript_v0.8.txt": "".join(
                    f"BAC009S000{n}W0122 而 对 楼市\n" for n in range(3)
                ),
            },
            "resource_aishell.tgz": {"resource_aishell/lexicon.txt": "而 ee er2\n"},
        }
    ),
    "audio_mnist": FakeCorpus(
        {
            "audio_mnist.tar.gz": {
                "AudioMNIST-master/data/01/0_01_0.wav": SOUND,
                "AudioMNIST-master/data/60/1_60_0.wav": SOUND,
                "AudioMNIST-master/data/audioMNIST_meta.txt": json.dumps(
                    {f"{n:02}": {"accent": "German", "age": "30"} for n in range(1, 61)}
                ),
            }
        }
    ),
    "baker_zh": FakeCorpus(
        {
            "BZNSYP.tar.bz2": {
                "BZNSYP/Wave/000001.wav": SOUND,
                "BZNSYP/ProsodyLabeling/000001-010000.txt": "000001\t卡尔普#2陪外孙#1玩滑梯#4。\n\tka2 er2 pu3\n",
            }
        }
    ),
    "but_reverb_db": FakeCorpus(
        {
            "BUT_ReverbDB.tgz": {
                f"BUT_ReverbDB/VUT_FIT_Q301/MicID01/SpkID01_S/01/{part}/IR_sweep.v00.wav": SOUND
                for part in ("RIR", "silence")
            }
        }
    ),
    "cmu_arctic": FakeCorpus(
        _speakers("cmu_us_", "_arctic", ["aew", "ahw", "bdl"]), download={"speakers": ["aew", "ahw", "bdl"]}
    ),
    "cmu_indic": FakeCorpus(
        _speakers("cmu_indic_", "", ["ben_rm", "guj_ad"]), download={"speakers": ["ben_rm", "guj_ad"]}
    ),
    "commonvoice": FakeCorpus(
        {
            "br.tar.gz": {
                "cv-corpus-13.0-2023-03-09/br/clips/common_voice_br_1.wav": SOUND,
                "cv-corpus-13.0-2023-03-09/br/dev.tsv": f"{_TSV}c0\tcommon_voice_br_1.wav\tDemat\t2\t0\t\t\t\t\tbr\t\n",
            }
        },
        download={"languages": ["br"]},
        process={"splits": ["dev"]},
        prepared="cv-corpus-13.0-2023-03-09",
    ),
    "hifitts": FakeCorpus(
        {
            "hi_fi_tts_v0.tar.gz": {
                "hi_fi_tts_v0/audio/92_clean/a/b_0001.wav": SOUND,
                "hi_fi_tts_v0/92_manifest_clean_dev.json": json.dumps(
                    {
                        "audio_filepath": "audio/92_clean/a/b_0001.wav",
                        "text": "he said",
                        "duration": 0.05,
                        "text_normalized": "He said",
                    }
                )
                + "\n",
            }
        }
    ),
    "libritts": FakeCorpus(_libritts("LibriTTS"), download={"dataset_parts": ["dev-clean"]}, prepared="LibriTTS"),
    "librittsr": FakeCorpus(_libritts("LibriTTS_R"), download={"dataset_parts": ["dev-clean"]}, prepared="LibriTTS_R"),
    "librispeech": FakeCorpus(
        {
            "dev-clean-2.tar.gz": {
                "LibriSpeech/dev-clean-2/84/1/84-1-0000.flac": SOUND,
                "LibriSpeech/dev-clean-2/84/1/84-1.trans.txt": "84-1-0000 GO\n",
            }
        },
        download={"dataset_parts": ["dev-clean-2"]},
    ),
    "ljspeech": FakeCorpus(
        {
            "LJSpeech-1.1.tar.bz2": {
                "LJSpeech-1.1/wavs/LJ001-0001.wav": SOUND,
                "LJSpeech-1.1/wavs/LJ001-0002.wav": SOUND,
                "LJSpeech-1.1/metadata.csv": "LJ001-0001|Printing|Printing\nLJ001-0002|in 1450|in fourteen fifty\n",
            }
        }
    ),
    "musan": FakeCorpus(
        {
            "musan.tar.gz": {
                **{f"musan/{part}/a/{part}-a-0000.wav": SOUND for part in ("music", "speech", "noise")},
                "musan/music/a/ANNOTATIONS": "music-a-0000 baroque,classical N Bach\n",
            }
        }
    ),
    "primewords": FakeCorpus(
        {
            "primewords_md_2018_set1.tar.gz": {
                "primewords_md_2018_set1/audio_files/0/00/a1.wav": SOUND,
                "primewords_md_2018_set1/set1_transcript.json": json.dumps(
                    [{"id": 1, "file": "a1.wav", "user_id": "7", "length": "0.05", "text": "你好"}]
                ),
            }
        }
    ),
    "rir_noise": FakeCorpus(
        {
            "rirs_noises.zip": {
                "RIRS_NOISES/pointsource_noises/noise-free-0.wav": SOUND,
                "RIRS_NOISES/real_rirs_isotropic_noises/air_noise_0.wav": SOUND,
                "RIRS_NOISES/real_rirs_isotropic_noises/air_rir_0.wav": SOUND,
                **{f"RIRS_NOISES/simulated_rirs/{size}room/R/a.wav": SOUND for size in ("small", "medium", "large")},
            }
        }
    ),
    "speechcommands": FakeCorpus(
        {
            "speech_commands_v0.02.tar.gz": {
                "testing_list.txt": "go/c_nohash_0.wav\n",
                "validation_list.txt": "go/b_nohash_0.wav\n",
                **{f"go/{speaker}_nohash_0.wav": SOUND for speaker in "abc"},
                "_background_noise_/running_tap.wav": SOUND,
            },
            "speech_commands_test_set_v0.02.tar.gz": {"go/c_nohash_0.wav": SOUND},
        },
        process={"speechcommands_version": "2"},
    ),
    "stcmds": FakeCorpus(
        {
            "ST-CMDS-20170001_1-OS.tar.gz": {
                "ST-CMDS-20170001_1-OS/20170001P00001A0001.wav": SOUND,
                "ST-CMDS-20170001_1-OS/20170001P00001A0001.txt": "你好",
            }
        }
    ),
    "thchs_30": FakeCorpus(
        {
            "data_thchs30.tgz": {
                **{f"data_thchs30/{part}/A{n}_0.wav": SOUND for n, part in enumerate(("train", "dev", "test"))},
                **{f"data_thchs30/data/A{n}_0.wav.trn": "绿 是\nlv4 shi4\n" for n in range(3)},
            }
        }
    ),
    "timit": FakeCorpus(
        {
            "timit.zip": {
                f"data/{part}/DR1/{speaker}/SX1.{kind}": content
                for part, speaker in (("TRAIN", "FCJF0"), ("TEST", "FADG0"), ("TEST", "FDHC0"))
                for kind, content in (
                    ("WAV", SOUND),
                    ("TXT", "0 400 She had.\n"),
                    ("WRD", "0 200 she\n200 400 had\n"),
                    ("PHN", "0 200 sh\n200 400 iy\n"),
                )
            }
        }
    ),
    "vctk": FakeCorpus(
        {
            "VCTK-Corpus.tar.gz": {
                "VCTK-Corpus/wav48/p225/p225_001.wav": SOUND,
                "VCTK-Corpus/txt/p225/p225_001.txt": "Please call Stella.",
                "VCTK-Corpus/speaker-info.txt": "ID AGE GENDER ACCENTS REGION\n225 23 F English Southern England\n",
            }
        }
    ),
    "voxconverse": FakeCorpus(
        {
            "voxconverse_dev_wav.zip": {"audio/aaa.wav": SOUND},
            "voxconverse_test_wav.zip": {"voxconverse_test_wav/bbb.wav": SOUND},
            "master.zip": {
                f"voxconverse-master/{part}/{name}.rttm": _RTTM.format(name)
                for part, name in (("dev", "aaa"), ("test", "bbb"))
            },
        },
        prepared="",
    ),
    "voxceleb1": FakeCorpus(
        {
            "vox1_dev_wav_partaa": {"wav/id10001/1zcIwhmdeo4/00001.wav": SOUND},
            **{f"vox1_dev_wav_parta{letter}": "" for letter in "bcd"},
            "vox1_test_wav.zip": {"wav/id10270/x6uYqmx31kE/00001.wav": SOUND},
            "vox1_meta.csv": "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
            "id10001\tA.J._Buckley\tm\tIreland\tdev\nid10270\tEartha_Kitt\tf\tUSA\ttest\n",
            "voxceleb1_test_v2.txt": "1 id10270/x6uYqmx31kE/00001.wav id10270/x6uYqmx31kE/00001.wav\n",
        }
    ),
    "wham": FakeCorpus({"wham_noise.zip": {f"wham_noise/{part}/{part}0.wav": SOUND for part in ("tr", "cv", "tt")}}),
    "yesno": FakeCorpus(
        {"waves_yesno.tar.gz": {f"waves_yesno/{'_'.join(format(n, '08b'))}.wav": SOUND for n in range(60)}}
    ),
}
