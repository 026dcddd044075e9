#!/bin/sh
# Co-trains IEF on the community "Douban MEMERS" with the published hyper-parameters:
#     DATA_PATH=/path/to/douban_memers sh co_train_douban_memers.sh [more flags, which override those below]
# scripts/launch.sh says what else can be set (GPUS, OUTPUT_DIR, several machines).
# The community writes Chinese. CLIP's text tower was trained on English: it knows little Chinese, and reads a
# Chinese character as two or three tokens, so that --max_words 32 cuts queries of more than about 12 characters. Towers
# that read Chinese: --pretrained_clip_name hf:OFA-Sys/chinese-clip-vit-base-patch16 (docs/TOWERS.md).
. "$(dirname "$0")/scripts/launch.sh"
launch --do_train --datatype douban_memers --data_path "$DATA_PATH" --output_dir "${OUTPUT_DIR:-runs/douban_memers}" \
  --pretrained_clip_name ViT-B/32 --max_words 32 --batch_size 128 --epochs 4 --lr 1e-4 "$@"
