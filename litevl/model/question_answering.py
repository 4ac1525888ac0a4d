"""LiteVL for video question answering: BLIP's question encoder and answer decoder on clips.

Legend: B questions, C clips, T frames, N patches, S tokens of a clip that questions see, W words, A
answers, G listed answers, K answers ranked, P pairs of question and answer, D vision width, Dt text
width, V vocabulary.

The question's own CLS weights the clip's tokens (text-dependent pooling), the question is then
encoded again, grounded in them, and the decoder reads the answer from the grounded words. Padding
is masked everywhere, also where the decoder looks at the question; transformers' BLIP (4.54 to
5.23) looks at the padding too. Sources: BLIP's VQA objective and ranking, see DESIGN section 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from litevl.errors import DataError, RunError, ShapeError, SpecError
from litevl.model.config import LiteVLConfig
from litevl.model.pooling import pooled_tokens, pooling_weights, token_weights
from litevl.model.saved import Saved
from litevl.model.shapes import expect
from litevl.model.text import Source, TextDecoder, TextEncoder
from litevl.model.tokenizer import Tokenizer, Tokens
from litevl.model.vision import VideoEncoder

LABEL_SMOOTHING = 0.1  # BLIP's, in training
IGNORED = -100  # the label of padding


@dataclass(frozen=True)
class AnswerRanking:
    """The best of the listed answers for each question, best first."""

    indices: Tensor  # (B, K), places in the answer list
    scores: Tensor  # (B, K), log-likelihoods unless ranked with label smoothing


def answer_tokens(answers: list[str], tokenizer: Tokenizer, max_tokens: int) -> Tokens:
    """A declared answer list as ids (G, W), fit for ranking.

    max_tokens counts the two special tokens. Raises DataError that names answers which are empty,
    too long, the same to the tokenizer, or hold what its vocabulary cannot express: of two equal
    answers one can never be right, and [UNK] would stand for any word.
    """
    tokens = tokenizer(answers, max_tokens)
    unknown_id = tokenizer.bert.unk_token_id
    first: dict[tuple[int, ...], str] = {}
    problems = []
    for answer, row, mask in zip(
        answers, tokens.input_ids.tolist(), tokens.attention_mask.tolist(), strict=True
    ):
        ids = tuple(row[: sum(mask)])
        if unknown_id in ids:
            problems.append(f"{answer!r}: has a word outside the vocabulary")
        elif ids in first:
            problems.append(f"{answer!r}: the same as {first[ids]!r}, which comes earlier")
        first.setdefault(ids, answer)
    if problems:
        raise DataError(
            f"answer list: {len(problems)} of {len(answers)} answers cannot be ranked\n  "
            + "\n  ".join(problems[:20])
            + "\n  Correct the list; each answer must be one of its own to the tokenizer."
        )
    return tokens


def expect_places(name: str, index: Tensor, rows: Tensor) -> None:
    """Raise ShapeError unless every index is the place of a row."""
    if ((index < 0) | (index >= len(rows))).any():
        raise ShapeError(
            f"{name} should be from 0 to {len(rows) - 1}, the rows of {tuple(rows.shape)}, "
            f"got {int(index.min())} to {int(index.max())}"
        )


class LiteVLForQuestionAnswering(
    nn.Module,
    Saved,
    library_name="litevl",
    tags=["video-question-answering", "arxiv:2210.11929"],
):
    """Answers questions about clips, by ranking a declared list of answers."""

    # The projections have a place where pooling_space is "projected".
    DROPPED_BY_DESIGN: ClassVar[re.Pattern[str]] = re.compile(
        r"((itm_head|vision_proj|text_proj)\.|temp$"
        r"|text_decoder\.cls\.predictions\.decoder\.(weight|bias)$)"
    )

    def __init__(self, config: LiteVLConfig) -> None:
        super().__init__()
        self.config = config
        self.visual_encoder = VideoEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.text_decoder = TextDecoder(config, source_width=config.text_width)
        if config.pooling_space == "projected":
            self.vision_proj = nn.Linear(config.vision_width, config.embed_width)
            self.text_proj = nn.Linear(config.text_width, config.embed_width)

    def loss(
        self,
        frames: Tensor,
        questions: Tokens,
        answers: Tokens,
        question_of_answer: Tensor | None = None,
        weights: Tensor | None = None,
        clip_of_question: Tensor | None = None,
    ) -> Tensor:
        """BLIP's training loss (): weighted sum over answers of their loss, divided by B.

        An answer's loss is the sum over its tokens of the cross entropy with label smoothing 0.1.
        frames: (C, T, 3, H, W), normalised as BLIP does. questions: (B, W), starting with [CLS].
        answers: (A, W), starting with [CLS] or [DEC], ending with [SEP]. question_of_answer: (A,)
        from 0 to B - 1; None where answer i is question i's. weights: (A,), None for ones.
        clip_of_question: (B,) from 0 to C - 1; None where question i is about clip i. A clip is
        encoded once, however many questions are about it. Raises ShapeError.
        """
        asked = self.encode(frames, questions, clip_of_question)
        if question_of_answer is not None:
            expect("question_of_answer", question_of_answer, "A", A=len(answers.input_ids))
            expect_places("question_of_answer", question_of_answer, asked.tokens)
        per_answer = self.answer_losses(
            asked.seen(question_of_answer), answers, LABEL_SMOOTHING
        )  # (A,)
        if weights is not None:
            expect("weights", weights, "A", A=len(per_answer))
            per_answer = per_answer * weights
        return per_answer.sum() / len(asked.tokens)

    @torch.no_grad()
    def rank_answers(
        self,
        frames: Tensor,
        questions: Tokens,
        answer_list: Tokens,
        k: int,
        label_smoothing: float = 0.0,
        pairs_at_once: int = 256,
        clip_of_question: Tensor | None = None,
    ) -> AnswerRanking:
        """The k listed answers whose first token is likeliest, ranked by their log-likelihood.

        frames: (C, T, 3, H, W). questions: (B, W). answer_list: (G, W), see `answer_tokens`.
        clip_of_question: (B,) as for `loss`. k: 1 to G; with k = G every answer is scored in full
        and the ranking is exact. Ties go to the answer that comes earlier in the list, in the pre-
        selection as well: answers with one first token cannot be told apart there. label_smoothing:
        0 ranks by the sum over tokens of log p; BLIP's own code keeps the 0.1 of training here,
        which adds the mean log p over the vocabulary to each token. pairs_at_once bounds the memory
        and changes nothing. Call `eval()` first: dropout would apply. Raises ShapeError, SpecError
        for k, and RunError where a score is not finite.
        """
        num_answers = expect("answer_list.input_ids", answer_list.input_ids, "G W")["G"]
        if not 1 <= k <= num_answers:
            raise SpecError(f"k: expected 1 to {num_answers}, the answers listed, got {k}")
        if pairs_at_once < 1:
            raise SpecError(f"pairs_at_once: expected a whole number from 1, got {pairs_at_once}")
        asked = self.encode(frames, questions, clip_of_question).keeping()
        candidates = self.preselected(asked, answer_list, k)  # (B, K)
        question = torch.arange(len(candidates), device=candidates.device).repeat_interleave(k)
        answer = candidates.flatten()  # (P,)
        # Answers of like length share a batch: most have one word, and the longest a dozen pieces.
        order = answer_list.attention_mask.sum(dim=1)[answer].argsort(stable=True)  # (P,)
        scores = torch.zeros(len(answer), device=answer.device)
        for some in torch.split(order, pairs_at_once):
            answered = answer_list.select(answer[some]).cut()
            losses = self.answer_losses(asked.seen(question[some]), answered, label_smoothing)
            scores[some] = -losses.float()
        scores = scores.view(candidates.shape)  # (B, K)
        if not scores.isfinite().all():
            raise RunError("answer scores hold NaN or infinity; a NaN would rank first")
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return AnswerRanking(candidates.gather(1, order), scores)

    @torch.no_grad()
    def generate(
        self, frames: Tensor, questions: Tokens, end_id: int, max_tokens: int = 10
    ) -> Tokens:
        """Free answers (B, W), W <= max_tokens, the likeliest token each time; for demonstrations.

        Scores come from `rank_answers` and never from here. frames: (B, T, 3, H, W). questions:
        (B, W). end_id: of [SEP]. Answers start with [DEC] and end with [SEP] unless cut off;
        the rest is padded with 0. Call `eval()` first. Raises ShapeError.
        """
        asked = self.encode(frames, questions).keeping()
        input_ids = self.starts(asked)  # (B, 1)
        mask = torch.ones_like(input_ids)
        for _ in range(max_tokens - 1):
            goes_on = (input_ids[:, -1:] != end_id) & (mask[:, -1:] == 1)  # (B, 1)
            if not goes_on.any():
                break
            logits = self.next_words(asked, Tokens(input_ids, mask))[:, -1:]  # (B, 1, V)
            input_ids = torch.cat([input_ids, logits.argmax(dim=-1) * goes_on], dim=1)
            mask = torch.cat([mask, goes_on.long()], dim=1)
        return Tokens(input_ids, mask)

    def encode(
        self, frames: Tensor, questions: Tokens, clip_of_question: Tensor | None = None
    ) -> Source:
        """Questions that have seen their clips: their words (B, W, Dt), for the decoder to read.

        frames: (C, T, 3, H, W). questions: (B, W), starting with [CLS]. clip_of_question: (B,) as
        for `loss`. Raises ShapeError.
        """
        num_clips = expect("frames", frames, "C T 3 H W")["C"]
        num_questions = num_clips if clip_of_question is None else len(clip_of_question)
        expect("questions.input_ids", questions.input_ids, "B W", B=num_questions)
        video = self.encode_video(frames)  # (C, S, D)
        if clip_of_question is not None:
            expect("clip_of_question", clip_of_question, "B", B=num_questions)
            expect_places("clip_of_question", clip_of_question, video)
        return self.ground(video, questions, clip_of_question)

    def encode_video(self, frames: Tensor) -> Tensor:
        """Clips as questions see them before they weigh them: (C, S, D).

        frames: (C, T, 3, H, W), normalised as BLIP does. Raises ShapeError.
        """
        return pooled_tokens(self.visual_encoder(frames), self.config.pooling)

    def ground(
        self, video: Tensor, questions: Tokens, clip_of_question: Tensor | None = None
    ) -> Source:
        """`encode` for clips already encoded. video: (C, S, D)."""
        query = self.encode_question(questions)
        weights = self.pooling_weights(video, query, clip_of_question)
        clips = Source(video).seen(clip_of_question, token_weights(video.shape[1], *weights))
        input_ids = questions.input_ids.clone()
        input_ids[:, 0] = self.encode_token_id  # BLIP grounds [ENC] ...; [CLS] is text alone
        words = self.text_encoder(input_ids, questions.attention_mask, clips)  # (B, W, Dt)
        return Source(words, questions.attention_mask)

    def encode_question(self, questions: Tokens) -> Tensor:
        """The questions' own CLS, before they have seen a clip: (B, Dt)."""
        ids, mask = questions.input_ids, questions.attention_mask
        hidden: Tensor = self.text_encoder(ids, mask, first_only=True)  # (B, 1, Dt)
        return hidden[:, 0]

    def pooling_weights(
        self, video: Tensor, query: Tensor, clip_of_question: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Text-dependent weights of frames (B, T) and patches (B, N), mean 1; None where unused.

        They are those of LiteVLForRetrieval. video: (C, S, D), query: (B, Dt), the questions' CLS.
        """
        projected = self.config.pooling_space == "projected"
        projections = (self.vision_proj, self.text_proj) if projected else None
        return pooling_weights(video, query, self.config, projections, clip_of_question)

    def answer_losses(self, questions: Source, answers: Tokens, label_smoothing: float) -> Tensor:
        """Cross entropy of each answer, summed over its tokens (P,); unsmoothed it is -log p.

        questions: as each answer sees them. answers: (P, W). Raises ShapeError.
        """
        sizes = expect("answers.input_ids", answers.input_ids, "P W", P=questions.num_texts)
        expect("answers.attention_mask", answers.attention_mask, "P W", **sizes)
        if sizes["W"] < 2:
            raise ShapeError(
                "answers.input_ids should be (P W) with W >= 2, a start and an end, got "
                f"{tuple(answers.input_ids.shape)}"
            )
        before = torch.cat([self.starts(questions), answers.input_ids[:, 1:-1]], dim=1)
        logits = self.next_words(questions, Tokens(before, answers.attention_mask[:, :-1]))
        is_padding = answers.attention_mask[:, 1:] == 0
        wanted = answers.input_ids[:, 1:].masked_fill(is_padding, IGNORED)  # (P, W - 1)
        per_token = F.cross_entropy(
            logits.transpose(1, 2),  # (P, V, W - 1)
            wanted,
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=label_smoothing,
        )
        return per_token.sum(dim=1)

    def preselected(self, questions: Source, answer_list: Tokens, k: int) -> Tensor:
        """The k answers (B, K) whose first token is likeliest, as they stand in the list."""
        start = self.starts(questions)  # (B, 1)
        logits = self.next_words(questions, Tokens(start, torch.ones_like(start)))[:, 0]  # (B, V)
        first_token = logits[:, answer_list.input_ids[:, 1]]  # (B, G)
        order = first_token.sort(dim=1, descending=True, stable=True).indices
        return order[:, :k].sort(dim=1).values

    def next_words(self, questions: Source, answers: Tokens) -> Tensor:
        """Logits of the word after each (B, W, V), in float32 also under autocast.

        What TextDecoder.forward does, with its head in full precision: bf16 logits between 8 and
        16 lie 1/16 apart, and answers would tie.
        """
        head, words = self.text_decoder.cls.predictions, self.text_decoder.bert.embeddings
        x = self.text_decoder.bert(
            answers.input_ids, answers.attention_mask, questions, is_causal=True
        )
        weight = words.word_embeddings.weight
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(head.transform(x.to(weight.dtype)), weight, head.bias).float()

    def starts(self, questions: Source) -> Tensor:
        """[DEC] for each text that sees a question: (B, 1)."""
        device = questions.tokens.device
        return torch.full((questions.num_texts, 1), self.decode_token_id, device=device)

    @property
    def decode_token_id(self) -> int:
        """Id of [DEC]; BLIP appends [DEC] and [ENC] to BERT's vocabulary, in that order."""
        return self.config.vocab_size - 2

    @property
    def encode_token_id(self) -> int:
        """Id of [ENC]."""
        return self.config.vocab_size - 1
