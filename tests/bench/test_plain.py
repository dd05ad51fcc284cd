"""A ratio against something else than the same computation would say nothing."""

import torch

from tests.bench.cached_eager import CachedEager
from tests.bench.plain import PlainGPT, PlainOptimizer
from trainer_daemon.contract.scaling import ModelShape, training_plan
from trainer_daemon.contract.spec import build_spec
from trainer_daemon.engine.models.gpt import GPT
from trainer_daemon.engine.optim.muon_adamw import build_optimizer


def test_the_yardstick_computes_what_the_engine_computes() -> None:
    spec = build_spec(
        {
            "model": {"depth": 3, "aspect_ratio": 16, "head_dim": 16, "n_kv_head": 1, "sequence_len": 160},
            "train": {"num_iterations": 9, "global_batch_tokens": 640, "micro_batch_size": 4},
        }
    )
    plan = training_plan(spec, 97, world_size=1)
    model = GPT(plan.shape)
    model.init_weights(1)
    plain = PlainGPT(model)
    optimizer, plain_optimizer = build_optimizer(model, plan), PlainOptimizer(plain, model, plan)
    text = torch.randint(0, 97, (4, 161), generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        ours, theirs = (m(text[:, :-1], text[:, 1:]) for m in (model, plain))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        ours.backward()
        theirs.backward()
        optimizer.step(learning_rate_scale=1.0, muon_momentum=0.85, weight_decay_scale=1.0)
        plain_optimizer.step()
        model.zero_grad()
        plain.zero_grad()


def test_the_yardstick_of_writing_computes_what_the_model_computes() -> None:
    shape = ModelShape(3, 32, 4, 2, 8, 24, 97, (4, 8, 24))
    model = GPT(shape).eval()
    model.init_weights(1)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():  # so that every part counts
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=draw))
    ids = torch.randint(0, 97, (1, 20), generator=draw)
    with torch.no_grad():
        expected = model(ids)[0]
    text = ids[0].tolist()
    plain = CachedEager(model)
    theirs = [plain.read(text[:12]), *(plain.read([token]) for token in text[12:])]
    torch.testing.assert_close(torch.stack(theirs), expected[11:], rtol=1e-4, atol=1e-4)
